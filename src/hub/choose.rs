//! Chooses among the files of a repository, on the hub or in the cache.

use super::names::{self, Split, has_tag, has_tag_loosely, is_model_part};
use super::{Error, Part, Spec};

/// What is taken where nothing is asked for: the first of these that is there. Four bits lose little and run
/// everywhere; the others follow by how near they are.
const PREFERRED: [&str; 7] = ["Q4_K_M", "Q4_0", "Q4_K_S", "Q4_1", "Q5_K_M", "Q8_0", "F16"];

/// A file to choose from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Its path below the repository's folder, with `/`.
    pub name: String,
    /// Its size, where it is known.
    pub bytes: Option<u64>,
}

/// The names of the files that a spec means, the parts of a split model in their order.
///
/// # Errors
/// [`Error::NoneFits`], [`Error::SeveralFit`], and [`Error::Parts`] where parts are missing.
pub(super) fn choose(offers: &[Offer], spec: &Spec) -> Result<Vec<String>, Error> {
    let models = models(offers);
    let fits = |fit: &dyn Fn(&str) -> bool| -> Vec<&Model> { models.iter().filter(|m| fit(m.first())).collect() };
    let chosen = match &spec.part {
        Part::File(file) => {
            let parts = models.iter().find(|m| m.names.contains(&file.as_str()));
            let other = || offers.iter().find(|offer| offer.name == *file);
            if let (None, Some(other)) = (parts, other()) {
                return Ok(vec![other.name.clone()]);
            }
            one(parts.into_iter().collect(), spec, &models)?
        }
        Part::Tag(tag) => {
            let exact = fits(&|name| has_tag(name, tag));
            one(if exact.is_empty() { fits(&|name| has_tag_loosely(name, tag)) } else { exact }, spec, &models)?
        }
        Part::Any => {
            let preferred = PREFERRED.iter().map(|tag| fits(&|name| has_tag(name, tag)));
            let preferred = preferred.into_iter().find(|fit| !fit.is_empty());
            one(preferred.unwrap_or_else(|| models.iter().take(1).collect()), spec, &models)?
        }
    };
    chosen.complete(spec)
}

/// As [`choose`], without a guess: where nothing is asked for, there must be one model only.
pub(super) fn choose_surely(offers: &[Offer], spec: &Spec) -> Result<Vec<String>, Error> {
    let models = models(offers);
    match spec.part {
        Part::Any => Ok(one(models.iter().collect(), spec, &models)?.names.iter().map(|&name| name.into()).collect()),
        _ => match choose(offers, spec) {
            // What is incomplete may be removed.
            Err(Error::Parts { name, .. }) => {
                let parts = models.iter().find(|m| m.first() == name).into_iter().flat_map(|m| &m.names);
                Ok(parts.map(|&name| name.to_owned()).collect())
            }
            chosen => chosen,
        },
    }
}

/// The models among some files, each as the names of its parts in order; incomplete ones are left out.
pub(super) fn complete_models(offers: &[Offer]) -> Vec<Vec<String>> {
    let names = |m: &Model| m.names.iter().map(|&name| name.to_owned()).collect();
    models(offers).iter().filter(|m| m.is_complete()).map(names).collect()
}

/// One model: a file, or the parts of a split one.
struct Model<'a> {
    names: Vec<&'a str>,
    bytes: Option<u64>,
    of: u32,
}

impl Model<'_> {
    fn first(&self) -> &str {
        self.names[0]
    }

    fn is_complete(&self) -> bool {
        self.names.len() == self.of as usize
    }

    fn complete(&self, spec: &Spec) -> Result<Vec<String>, Error> {
        if !self.is_complete() {
            let (repo, name) = (spec.repo.clone(), self.first().to_owned());
            return Err(Error::Parts { repo, name, expected: self.of, found: self.names.len() });
        }
        Ok(self.names.iter().map(|&name| name.to_owned()).collect())
    }
}

/// The models among the files, by name.
fn models(offers: &[Offer]) -> Vec<Model<'_>> {
    let mut offers: Vec<&Offer> = offers.iter().filter(|offer| is_model_part(&offer.name)).collect();
    offers.sort_by(|a, b| a.name.cmp(&b.name));
    offers.dedup_by(|a, b| a.name == b.name); // a part that is listed twice is not two parts
    let key = |split: Option<Split<'_>>| split.map(|split| (split.stem.to_owned(), split.of));
    let mut models: Vec<Model> = Vec::new();
    for offer in offers {
        let split = names::split(&offer.name);
        match models.last_mut() {
            Some(last) if split.is_some() && key(names::split(last.first())) == key(split) => {
                last.names.push(&offer.name);
                last.bytes = last.bytes.zip(offer.bytes).map(|(a, b)| a.saturating_add(b));
            }
            _ => models.push(Model { names: vec![&offer.name], bytes: offer.bytes, of: split.map_or(1, |s| s.of) }),
        }
    }
    models
}

fn one<'a, 'b>(fit: Vec<&'a Model<'b>>, spec: &Spec, models: &[Model]) -> Result<&'a Model<'b>, Error> {
    let repo = spec.repo.clone();
    let offer = |m: &Model| Offer { name: m.first().to_owned(), bytes: m.bytes };
    match (&fit[..], &spec.part) {
        ([model], _) => Ok(model),
        ([], part) => {
            let what = match part {
                Part::File(file) => format!("file `{file}`"),
                Part::Tag(tag) if !models.is_empty() => format!("model file with `{tag}` in its name"),
                _ => "model file (GGUF)".to_owned(),
            };
            Err(Error::NoneFits { repo, what, offers: models.iter().map(offer).collect() })
        }
        (several, _) => {
            let offers = several.iter().map(|&m| offer(m)).collect();
            Err(Error::SeveralFit { repo, spec: spec.to_string(), offers })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offers(names: &[&str]) -> Vec<Offer> {
        names.iter().map(|&name| Offer { name: name.into(), bytes: Some(2048) }).collect()
    }

    fn chosen(names: &[&str], spec: &str) -> Result<Vec<String>, String> {
        choose(&offers(names), &Spec::parse(spec).unwrap()).map_err(|error| error.to_string())
    }

    const REPO: [&str; 7] = [
        "README.md",
        "mmproj-Q4_0.gguf",
        "m-Q8_0.gguf",
        "m-Q4_0.gguf",
        "m-Q4_K_M.gguf",
        "F16/m-F16-00002-of-00002.gguf",
        "F16/m-F16-00001-of-00002.gguf",
    ];

    #[test]
    fn four_bits_are_preferred_and_tags_decide() {
        assert_eq!(chosen(&REPO, "o/r").unwrap(), ["m-Q4_K_M.gguf"]);
        assert_eq!(chosen(&REPO[..4], "o/r").unwrap(), ["m-Q4_0.gguf"]);
        assert_eq!(chosen(&["b.gguf", "a.gguf"], "o/r").unwrap(), ["a.gguf"]);
        assert_eq!(chosen(&REPO, "o/r:q8_0").unwrap(), ["m-Q8_0.gguf"]);
        assert_eq!(chosen(&["m_q4_0.gguf", "m_q4_1.gguf"], "o/r:Q4_0").unwrap(), ["m_q4_0.gguf"]);
    }

    #[test]
    fn all_parts_are_taken_in_order() {
        let parts = ["F16/m-F16-00001-of-00002.gguf", "F16/m-F16-00002-of-00002.gguf"];
        for spec in ["o/r:F16", "o/r/F16/m-F16-00001-of-00002.gguf", "o/r/F16/m-F16-00002-of-00002.gguf"] {
            assert_eq!(chosen(&REPO, spec).unwrap(), parts, "{spec}");
        }
        let error = chosen(&REPO[..6], "o/r:F16").unwrap_err();
        assert_eq!(error, "`o/r`: `F16/m-F16-00002-of-00002.gguf` is one of 2 parts, found 1");
    }

    #[test]
    fn projectors_are_taken_by_name_only() {
        assert!(chosen(&REPO[..2], "o/r").unwrap_err().contains("no model file"));
        assert!(chosen(&REPO[..2], "o/r:Q4_0").unwrap_err().contains("no model file"));
        assert_eq!(chosen(&REPO, "o/r/mmproj-Q4_0.gguf").unwrap(), ["mmproj-Q4_0.gguf"]);
    }

    #[test]
    fn what_is_missing_or_ambiguous_is_listed() {
        let missing = chosen(&REPO, "o/r:Q9_9").unwrap_err();
        assert!(missing.starts_with("`o/r`: no model file with `Q9_9` in its name; there are:\n"), "{missing}");
        assert!(missing.contains("\n  F16/m-F16-00001-of-00002.gguf    4.00 KiB\n"), "{missing}");
        assert!(missing.ends_with("\nhint: ORG/REPO/FILE names one") && !missing.contains("mmproj"), "{missing}");
        let two = chosen(&["a-Q4_0.gguf", "b-Q4_0.gguf", "c-Q8_0.gguf"], "o/r").unwrap_err();
        assert!(two.contains("2 models fit `o/r`") && two.contains("b-Q4_0") && !two.contains("c-Q8_0"), "{two}");
        assert!(chosen(&REPO, "o/r/x.gguf").unwrap_err().contains("no file `x.gguf`"));
    }

    #[test]
    fn nothing_is_guessed_where_it_must_be_sure() {
        let surely = |names: &[&str], spec: &str| choose_surely(&offers(names), &Spec::parse(spec).unwrap());
        assert!(matches!(surely(&REPO, "o/r"), Err(Error::SeveralFit { .. })));
        assert_eq!(surely(&["m-Q8_0.gguf", "mmproj-Q8_0.gguf"], "o/r").unwrap(), ["m-Q8_0.gguf"]);
        assert_eq!(surely(&REPO[..6], "o/r:F16").unwrap(), ["F16/m-F16-00002-of-00002.gguf"]);
    }
}
