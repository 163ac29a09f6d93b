//! Owns what a checkpoint says about itself in words: the head of its model card, its generation settings, its name.
//! Of YAML it reads what model cards use, keys with a text or a list of texts, and passes over the rest.

use std::path::Path;

use indexmap::IndexMap;

use super::Error;
use super::json::{Document, Object};
use super::naming::{Name, Parameters, title};
use super::read::{self, Kind};
use crate::gguf::Metadata;

/// Where the head of a card has long ended.
const MAX_HEAD_BYTES: usize = 1 << 20;

/// Writes the `general.*` keys that come before those of the architecture.
pub(super) fn write(
    folder: &Path,
    name: Option<&str>,
    config: Object,
    counts: &Parameters,
    meta: &mut Metadata,
    notices: &mut Vec<String>,
) -> Result<(), Error> {
    // Neither settings of sampling nor a card, which is for people, are a reason to refuse the numbers.
    write_sampling(folder, meta)
        .unwrap_or_else(|error| notices.push(format!("settings of sampling are left out: {error}")));
    let card = read::bytes_if_any(&folder.join("README.md"), Kind::Settings).unwrap_or_else(|error| {
        notices.push(format!("the model card is left out: {error}"));
        None
    });
    let mut card = card.unwrap_or_default();
    card.truncate(MAX_HEAD_BYTES);
    let card = Card::parse(&String::from_utf8_lossy(&card));
    let parameters = counts.all;
    let named = names(folder, config, parameters);
    let first = |part: fn(&Name) -> Option<String>| named.iter().find_map(part);
    let text = |keys: &[&str]| keys.iter().find_map(|key| card.text(key)).map(str::to_owned);
    let folder_name = || folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let full = named.iter().find(|n| !n.full.is_empty()).map(|n| title(&n.full));
    let name = name.map(str::to_owned).or_else(|| text(&["name", "model_name"])).or(full).unwrap_or_else(folder_name);
    let mut put = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            meta.insert(format!("general.{key}"), value);
        }
    };
    put("name", Some(name));
    put("author", text(&["author", "model_author", "model_creator"]));
    put("version", text(&["version", "model_version"]).or_else(|| first(|n| n.version.clone())));
    let organization = || first(|n| n.organization.as_deref().map(title));
    put("organization", text(&["organization", "model_organization"]).or_else(organization));
    put("finetune", text(&["finetune", "model_finetune"]).or_else(|| first(|n| n.finetune.clone())));
    put("basename", text(&["basename", "model_basename", "model_type"]).or_else(|| first(|n| n.basename.clone())));
    put("description", text(&["description", "model_description"]));
    let size = text(&["size_label", "model_size_label"]).or_else(|| first(|n| n.size_label.clone()));
    put("size_label", size.or_else(|| (parameters > 0).then(|| counts.label())));
    put("license", card.list(&["license"]).map(|all| all.join(",")));
    put("license.name", text(&["license_name"]));
    put("license.link", text(&["license_link"]));
    put("source.url", text(&["url", "model_url"]));
    put("source.doi", text(&["doi", "model_doi"]));
    put("source.uuid", text(&["uuid", "model_uuid"]));
    put("source.repo_url", text(&["repo_url", "model_repo_url"]));
    write_references("base_model", card.list(&["base_model", "base_models", "base_model_sources"]), parameters, meta);
    write_references("dataset", card.list(&["datasets", "dataset", "dataset_sources"]), parameters, meta);
    for (key, sources) in [("tags", ["tags", "pipeline_tag"]), ("languages", ["languages", "language"])] {
        let all: Vec<String> = sources.iter().filter_map(|source| card.list(&[source])).flatten().collect();
        if !all.is_empty() {
            meta.insert(format!("general.{key}"), all);
        }
    }
    Ok(())
}

/// The names that a checkpoint has: the one in its configuration, unless that is a path, and its folder's.
fn names(folder: &Path, config: Object, parameters: u64) -> Vec<Name> {
    let given = config.get("_name_or_path").and_then(serde_json::Value::as_str);
    let given = given.filter(|name| name.matches('/').count() <= 1);
    let folder = folder.file_name().map(|name| name.to_string_lossy().into_owned());
    let all = given.map(str::to_owned).into_iter().chain(folder);
    all.map(|name| Name::parse(&name, parameters)).collect()
}

/// The sampling settings that the model's authors recommend.
fn write_sampling(folder: &Path, meta: &mut Metadata) -> Result<(), Error> {
    let Some(file) = Document::read(folder.join("generation_config.json"), Kind::Settings)? else { return Ok(()) };
    let settings = file.root();
    let (floats, integers): (&[_], &[_]) = (
        &[
            ("top_p", "top_p"),
            ("min_p", "min_p"),
            ("xtc_probability", "xtc_probability"),
            ("xtc_threshold", "xtc_threshold"),
            ("temp", "temperature"),
            ("penalty_repeat", "repetition_penalty"),
            ("mirostat_tau", "mirostat_tau"),
            ("mirostat_eta", "mirostat_eta"),
        ],
        &[("top_k", "top_k"), ("penalty_last_n", "penalty_last_n"), ("mirostat", "mirostat")],
    );
    const ORDER: [&str; 11] = [
        "top_k",
        "top_p",
        "min_p",
        "xtc_probability",
        "xtc_threshold",
        "temp",
        "penalty_last_n",
        "penalty_repeat",
        "mirostat",
        "mirostat_tau",
        "mirostat_eta",
    ];
    for key in ORDER {
        let name = format!("general.sampling.{key}");
        if let Some((_, source)) = floats.iter().find(|(k, _)| *k == key)
            && let Some(x) = settings.f64(source)?
        {
            meta.insert(name, x as f32);
        } else if let Some((_, source)) = integers.iter().find(|(k, _)| *k == key)
            && let Some(n) = settings.get(source).and_then(|v| i32::try_from(v.as_i64()?).ok())
        {
            meta.insert(name, n);
        }
    }
    Ok(())
}

/// What the model was made from, by the names that its card gives.
fn write_references(what: &str, list: Option<Vec<String>>, parameters: u64, meta: &mut Metadata) {
    let Some(list) = list else { return };
    meta.insert(format!("general.{what}.count"), list.len() as u32);
    for (i, id) in list.iter().enumerate() {
        let is_url = ["http://", "https://", "ssh://"].iter().any(|start| id.starts_with(start));
        let on_hub = id.split_once("://huggingface.co/").map(|(_, id)| id).filter(|id| is_pair(id));
        let name = if is_url { on_hub } else { Some(id.as_str()) }.map(|id| Name::parse(id, parameters));
        let mut put = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                meta.insert(format!("general.{what}.{i}.{key}"), value);
            }
        };
        let organization = name.as_ref().and_then(|n| n.organization.clone());
        put("name", name.as_ref().map(|n| title(&n.full)));
        put("version", name.as_ref().and_then(|n| n.version.clone()));
        put("organization", organization.as_deref().map(title));
        let repository = name.filter(|_| !is_url).zip(organization);
        put(
            "repo_url",
            repository.map(|(n, organization)| format!("https://huggingface.co/{organization}/{}", n.full)),
        );
        put("repo_url", is_url.then(|| id.clone()));
    }
}

fn is_pair(id: &str) -> bool {
    id.split_once('/').is_some_and(|(a, b)| !a.is_empty() && !b.is_empty() && !b.contains('/'))
}

/// The head of a model card.
#[derive(Debug, Default, PartialEq)]
struct Card(IndexMap<String, Entry>);

#[derive(Debug, PartialEq)]
enum Entry {
    Text(String),
    List(Vec<String>),
}

impl Card {
    /// Reads the lines between `---` and `---` at the start of a card.
    fn parse(text: &str) -> Card {
        let mut lines = text.lines();
        if lines.next() != Some("---") {
            return Card::default();
        }
        let lines: Vec<String> = lines.take_while(|line| *line != "---").map(|line| line.replace('\t', "  ")).collect();
        let mut card = Card::default();
        let mut at = 0;
        while at < lines.len() {
            let line = &lines[at];
            at += 1;
            let Some((key, value)) = line.split_once(':').filter(|_| !line.starts_with([' ', '-', '#'])) else {
                continue;
            };
            // What belongs to the key: lines that are indented or items of a list.
            let n = lines[at..].iter().take_while(|l| l.is_empty() || l.starts_with([' ', '-', '#'])).count();
            if let Some(entry) = entry(value.trim(), &lines[at..at + n]) {
                card.0.insert(key.trim().trim_matches(['"', '\'']).to_owned(), entry);
            }
            at += n;
        }
        card
    }

    fn text(&self, key: &str) -> Option<&str> {
        match self.0.get(key)? {
            Entry::Text(text) => Some(text),
            Entry::List(_) => None,
        }
    }

    /// The list of the first of these keys that the card has; one text is a list of one.
    fn list(&self, keys: &[&str]) -> Option<Vec<String>> {
        match keys.iter().find_map(|key| self.0.get(*key))? {
            Entry::Text(text) => Some(vec![text.clone()]),
            Entry::List(list) => Some(list.clone()),
        }
    }
}

fn entry(value: &str, below: &[String]) -> Option<Entry> {
    if let Some(inner) = value.strip_prefix('[') {
        let inner = without_comment(inner).strip_suffix(']')?;
        let items = inner.split(',').map(str::trim).filter(|item| !item.is_empty());
        return items.map(scalar).collect::<Option<_>>().map(Entry::List);
    }
    if !without_comment(value).is_empty() {
        return scalar(value).map(Entry::Text);
    }
    let items: Vec<&str> = below.iter().map(|l| l.trim()).filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
    // `- no` is Norwegian.
    let item = |line: &&str| match line.strip_prefix("- ")?.trim() {
        "no" => Some("no".to_owned()),
        item => scalar(item),
    };
    let list: Vec<String> = items.iter().map(item).collect::<Option<_>>()?;
    (!list.is_empty()).then_some(Entry::List(list))
}

fn without_comment(value: &str) -> &str {
    if value.starts_with('#') { "" } else { value.split(" #").next().unwrap_or_default().trim_end() }
}

/// A text; `None` for what YAML takes for something else.
fn scalar(value: &str) -> Option<String> {
    if let Some(quote @ ('"' | '\'')) = value.chars().next() {
        let (inner, _) = value[1..].split_once(quote)?;
        return (!inner.contains('\\')).then(|| inner.to_owned());
    }
    let value = without_comment(value);
    let other =
        matches!(value.to_ascii_lowercase().as_str(), "~" | "null" | "true" | "false" | "yes" | "no" | "on" | "off");
    let plain = !value.is_empty() && !value.starts_with(['[', '{', '|', '>', '&', '*', '!', '%', '@', '`']);
    (plain && !other && !value.contains(": ") && !value.ends_with(':') && value.parse::<f64>().is_err())
        .then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(card: &Card, key: &str) -> Vec<String> {
        card.list(&[key]).unwrap_or_default()
    }

    #[test]
    fn cards_of_the_hub_are_read() {
        let card = Card::parse(
            "---\nlicense: llama3.2 # text\nlanguage:\n- en\n- \"no\"\n- no\ntags: [a, 'b c']\nbase_model:\n  - x/y\n\
             model-index:\n- name: x\n  results:\n  - task:\n      type: t\nversion: 1.0\nprompt: >-\n  long\n  text\n---\nauthor: me\n",
        );
        assert_eq!(card.text("license"), Some("llama3.2"));
        assert_eq!(list(&card, "language"), ["en", "no", "no"]);
        assert_eq!(list(&card, "tags"), ["a", "b c"]);
        assert_eq!(list(&card, "base_model"), ["x/y"]);
        assert_eq!([card.text("version"), card.text("author"), card.text("prompt")], [None; 3]);
        assert_eq!(list(&card, "model-index"), Vec::<String>::new());
    }

    #[test]
    fn what_is_no_head_is_no_card() {
        assert_eq!(Card::parse(""), Card::default());
        assert_eq!(Card::parse("# Title\n---\nlicense: mit\n---\n"), Card::default());
        Card::parse("---\n:\n-\n- \n\"\n'a\n[: x\na: [\nb: '\n");
    }
}
