//! The parameters that `/set` changes while a conversation goes on, by the names of their flags.

use crate::cli::{self, Count, SamplingArgs};

/// Sampling parameters and the length of an answer.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) sampling: SamplingArgs,
    pub(super) n_predict: Count,
}

/// The names that `/set` knows.
pub(super) const NAMES: [&str; 8] =
    ["temperature", "top-k", "top-p", "min-p", "repeat-penalty", "repeat-last-n", "seed", "n-predict"];

impl Settings {
    /// Changes one parameter.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let name = if name == "temp" { "temperature" } else { name };
        let done = self.try_set(name, value);
        done.map_err(|why| if NAMES.contains(&name) { format!("`{name}`: {why}, found `{value}`") } else { why })
    }

    fn try_set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let sampling = &mut self.sampling;
        match name {
            "temperature" => sampling.temp = cli::not_negative(value)?,
            "top-k" => sampling.top_k = cli::number(value)?,
            "top-p" => sampling.top_p = cli::fraction(value)?,
            "min-p" => sampling.min_p = cli::fraction(value)?,
            "repeat-penalty" => sampling.repeat_penalty = cli::above_zero(value)?,
            "repeat-last-n" => sampling.repeat_last_n = cli::count(value)?,
            "seed" => sampling.seed = cli::seed(value)?,
            "n-predict" => self.n_predict = cli::count(value)?,
            _ => return Err(format!("unknown parameter `{name}`\nhint: there are {}", NAMES.join(", "))),
        }
        Ok(())
    }

    /// All parameters with their values, one a line. `seed` is the one in use.
    pub(super) fn list(&self, seed: u64) -> String {
        let lines = NAMES.map(|name| format!("  {name:<16}{}", self.value(name, seed)));
        lines.join("\n")
    }

    fn value(&self, name: &str, seed: u64) -> String {
        let sampling = &self.sampling;
        match name {
            "temperature" => sampling.temp.to_string(),
            "top-k" => sampling.top_k.to_string(),
            "top-p" => sampling.top_p.to_string(),
            "min-p" => sampling.min_p.to_string(),
            "repeat-penalty" => sampling.repeat_penalty.to_string(),
            "repeat-last-n" => count(sampling.repeat_last_n),
            "seed" if sampling.seed.0.is_none() => format!("-1 (drew {seed})"),
            "seed" => seed.to_string(),
            _ => count(self.n_predict),
        }
    }
}

fn count(count: Count) -> String {
    match count {
        Count::Limit(n) => n.to_string(),
        Count::All => "-1".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    #[test]
    fn every_parameter_can_be_set_and_listed() {
        let Command::Chat(args) = Cli::parse_from(["curtail", "chat"]).command else { unreachable!() };
        let mut settings = Settings { sampling: args.sampling, n_predict: Count::All };
        for (name, value) in NAMES.iter().zip(["0.5", "7", "0.25", "0.125", "1.5", "-1", "99", "12"]) {
            settings.set(name, value).unwrap();
            assert_eq!(settings.value(name, 99), value);
        }
        for (name, value) in [("top-p", "2"), ("temperature", "-1"), ("seed", "x"), ("colour", "red")] {
            assert!(settings.set(name, value).is_err());
        }
        assert_eq!(settings.list(99).lines().count(), NAMES.len());
    }
}
