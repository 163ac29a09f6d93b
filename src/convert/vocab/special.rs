//! Owns the tokens with a role and the chat template of a checkpoint, read from the same places in the same order as
//! llama.cpp's converter does. Refuses to guess: a role that no file names is left out.

use std::path::Path;

use indexmap::IndexMap;
use serde_json::Value;

use super::super::json::{Document, Object, read_text, shown};
use super::super::read::Kind;
use super::Error;
use crate::gguf::Metadata;

/// Roles, whether they are added to a text, and templates.
#[derive(Debug, Default)]
pub(super) struct Special {
    ids: IndexMap<&'static str, u32>,
    add: IndexMap<&'static str, bool>,
    templates: Templates,
    /// What has no place in the file.
    remarks: Vec<String>,
}

/// The roles that files name, in the order in which they are looked for.
const ROLES: [&str; 7] = ["bos", "eos", "unk", "sep", "pad", "cls", "mask"];

/// The files that say which token has which role.
pub(super) struct Files<'a> {
    pub(super) folder: &'a Path,
    pub(super) config: Object<'a>,
    pub(super) tokenizer: Option<&'a Document>,
    pub(super) tokenizer_config: Option<&'a Document>,
}

impl Special {
    /// Reads the roles. Ids from `n_vocab` on have none.
    pub(super) fn load(files: &Files, n_vocab: u32) -> Result<Special, Error> {
        let mut special = Special::default();
        let mut roles = Roles::new(files.tokenizer_config);
        if let Some(tokenizer) = files.tokenizer {
            special.read_post_processor(tokenizer, &mut roles);
        }
        let config = files.tokenizer_config.map(Document::root);
        special.templates = Templates::load(files.folder, config, &mut special.remarks)?;
        if let Some(config) = files.tokenizer_config {
            special.read_tokenizer_config(files, config.root(), &roles, n_vocab);
        }
        for role in roles.wanted() {
            let id = files.config.get(&format!("{role}_token_id")).and_then(Value::as_u64);
            special.set(role, id, n_vocab);
        }
        Ok(special)
    }

    /// Gives a role to a token unless it has one.
    pub(super) fn set(&mut self, role: &'static str, id: Option<u64>, n_vocab: u32) {
        match id.and_then(|id| u32::try_from(id).ok()) {
            Some(id) if id < n_vocab => drop(self.ids.entry(role).or_insert(id)),
            // -1 and its bits say that there is none.
            None | Some(u32::MAX) => {}
            Some(_) if self.ids.contains_key(role) || id_key(role).is_none() => {}
            Some(id) => self.remark(format!("the {role} token {id} has no row in the model: left out")),
        }
    }

    /// Gives a role to a token, whatever the files say.
    pub(super) fn give(&mut self, role: &'static str, id: u32) {
        self.ids.insert(role, id);
    }

    /// Says something once.
    fn remark(&mut self, remark: String) {
        if !self.remarks.contains(&remark) {
            self.remarks.push(remark);
        }
    }

    /// Whether a role's token is added to a text, unless the files say.
    pub(super) fn set_add(&mut self, role: &'static str, add: bool) {
        self.add.entry(role).or_insert(add);
    }

    pub(super) fn write(self, meta: &mut Metadata, notices: &mut Vec<String>) {
        notices.extend(self.remarks);
        for (&role, &id) in &self.ids {
            if let Some(key) = id_key(role) {
                meta.insert(key, id);
            }
        }
        for (&role, &add) in &self.add {
            if matches!(role, "bos" | "eos" | "sep") {
                meta.insert(format!("tokenizer.ggml.add_{role}_token"), add);
            }
        }
        self.templates.write(meta);
    }

    fn read_tokenizer_config(&mut self, files: &Files, config: Object, roles: &Roles, n_vocab: u32) {
        let added = files.tokenizer.and_then(|t| t.root().get("added_tokens")?.as_array());
        for role in roles.wanted() {
            if let Some(add) = config.get(&format!("add_{role}_token")).and_then(Value::as_bool) {
                self.set_add(role, add);
            }
            let Some(text) = roles.text(role) else { continue };
            let entry = added.into_iter().flatten().find(|token| token["content"] == text);
            self.set(role, entry.and_then(|token| token["id"].as_u64()), n_vocab);
        }
    }

    fn read_post_processor(&mut self, tokenizer: &Document, roles: &mut Roles) {
        let Some(post) = tokenizer.root().get("post_processor") else { return };
        let one = std::slice::from_ref(post);
        for processor in post["processors"].as_array().map_or(one, Vec::as_slice) {
            match processor["type"].as_str() {
                Some("ByteLevel") => {
                    self.set_add("bos", false);
                    self.set_add("eos", false);
                }
                Some("RobertaProcessing") => {
                    self.add.extend(["bos", "eos", "sep"].map(|role| (role, true)));
                    roles.set_if_absent("cls", processor["cls"][0].as_str());
                    roles.set_if_absent("sep", processor["sep"][0].as_str());
                }
                Some("TemplateProcessing") => self.read_template(processor, roles),
                Some(other) => {
                    let other: String = other.chars().take(40).collect();
                    self.remark(format!(
                        "the tokenizer's post-processor `{other}` is left out: GGUF has no key for it"
                    ));
                }
                None => {}
            }
        }
    }

    /// Which tokens a template puts before and behind a text, and between two.
    fn read_template(&mut self, processor: &Value, roles: &mut Roles) {
        let special = |item: &Value| item["SpecialToken"]["id"].as_str().map(str::to_owned);
        let single = processor["single"].as_array().map_or(&[][..], Vec::as_slice);
        let (mut first, mut last) = (None, None);
        if let [start, .., end] = single {
            (first, last) = (special(start), special(end));
        }
        if let Some(first) = &first {
            if !roles.is(first, &["bos", "cls"]) {
                roles.set_if_absent("bos", Some(first));
                roles.set_if_absent("cls", Some(first));
            }
            let is_bos = roles.is(first, &["bos", "cls"]);
            self.add.insert("bos", is_bos);
            if !is_bos {
                self.remark(format!("{first:?}, which the tokenizer puts before a text, is left out: it is not BOS"));
            }
        }
        self.remark_more(single);
        if let Some(last) = &last {
            roles.set_last(last);
            self.add.insert("eos", true);
        }
        let pair = processor["pair"].as_array().map_or(&[][..], Vec::as_slice);
        self.read_pair(pair, first, last, roles);
    }

    /// GGUF knows of one token before a text and one behind it.
    fn remark_more(&mut self, single: &[Value]) {
        let is_token = |item: &&Value| item.get("SpecialToken").is_some();
        let text = |item: &Value| format!("{:?}", item["SpecialToken"]["id"].as_str().unwrap_or_default());
        let before: Vec<String> = single.iter().take_while(is_token).skip(1).map(text).collect();
        let behind: Vec<String> = single.iter().rev().take_while(is_token).skip(1).map(text).collect();
        if single.iter().all(|item| is_token(&item)) {
            return;
        }
        for (more, place) in [(before, "before"), (behind, "behind")] {
            if !more.is_empty() {
                let more = more.join(", ");
                self.remark(format!(
                    "{more}, which the tokenizer puts {place} a text too, is left out: GGUF has no key for it"
                ));
            }
        }
    }

    fn read_pair(&mut self, mut pair: &[Value], first: Option<String>, last: Option<String>, roles: &mut Roles) {
        let is = |item: &Value, token: &Option<String>| {
            token.is_some() && item["SpecialToken"]["id"].as_str() == token.as_deref()
        };
        if let [start, rest @ ..] = pair
            && is(start, &first)
        {
            pair = rest;
        }
        if let [rest @ .., end] = pair
            && is(end, &last)
        {
            pair = rest;
        }
        let [a, between @ .., b] = pair else { return };
        if a["Sequence"]["id"] != "A" || b["Sequence"]["id"] != "B" || between.is_empty() {
            return;
        }
        let parts =
            |item: &Value| item["SpecialToken"]["id"].as_str().is_some_and(|token| roles.is(token, &["sep", "eos"]));
        let add = (parts(&between[0]) && last.is_none()) || (between.len() == 2 && parts(&between[1]));
        self.add.insert("sep", add);
        if add {
            let eos = roles.text("eos").map(str::to_owned);
            roles.set_if_absent("sep", eos.as_deref());
        }
    }
}

/// The texts of the tokens with a role.
struct Roles {
    texts: IndexMap<&'static str, String>,
    /// Whether there is a `tokenizer_config.json`: without it texts have no ids.
    has_config: bool,
}

impl Roles {
    fn new(config: Option<&Document>) -> Roles {
        let text = |role: &str| config.and_then(|c| role_text(c.root(), role));
        let mut texts: IndexMap<_, _> = ROLES.into_iter().filter_map(|role| Some((role, text(role)?))).collect();
        for (role, other) in [("bos", "cls"), ("eos", "sep")] {
            if let (None, Some(text)) = (texts.get(role), texts.get(other).cloned()) {
                texts.insert(role, text);
            }
        }
        Roles { texts, has_config: config.is_some() }
    }

    fn wanted(&self) -> impl Iterator<Item = &'static str> + '_ {
        ROLES.into_iter().chain(self.texts.contains_key("eot").then_some("eot"))
    }

    fn text(&self, role: &str) -> Option<&str> {
        self.texts.get(role).map(String::as_str)
    }

    fn is(&self, token: &str, roles: &[&str]) -> bool {
        roles.iter().any(|role| self.text(role) == Some(token))
    }

    fn set_if_absent(&mut self, role: &'static str, text: Option<&str>) {
        if let Some(text) = text {
            self.texts.entry(role).or_insert_with(|| text.to_owned());
        }
    }

    /// The token that a template ends with is EOS; what the configuration calls so ends a turn.
    fn set_last(&mut self, last: &str) {
        if self.text("eos") == Some(last) {
            return;
        }
        if let Some(eos) = self.texts.insert("eos", last.to_owned()).filter(|_| self.has_config) {
            self.set_if_absent("eot", Some(&eos));
        }
    }
}

/// The text of a role in `tokenizer_config.json` or `special_tokens_map.json`.
pub(super) fn role_text(config: Object, role: &str) -> Option<String> {
    let entry = config.get(&format!("{role}_token"))?;
    let text = entry.as_str().or_else(|| entry["content"].as_str())?;
    (!text.is_empty()).then(|| text.to_owned())
}

/// The key of a role's id; GGUF has none for some.
fn id_key(role: &str) -> Option<&'static str> {
    Some(match role {
        "bos" => "tokenizer.ggml.bos_token_id",
        "eos" => "tokenizer.ggml.eos_token_id",
        "unk" => "tokenizer.ggml.unknown_token_id",
        "sep" => "tokenizer.ggml.seperator_token_id",
        "pad" => "tokenizer.ggml.padding_token_id",
        "mask" => "tokenizer.ggml.mask_token_id",
        "eot" => "tokenizer.ggml.eot_token_id",
        _ => return None,
    })
}

/// Chat templates: the one without a name or named `default`, and others by name.
#[derive(Debug, Default)]
struct Templates {
    default: Option<String>,
    named: IndexMap<String, String>,
}

impl Templates {
    /// Files of their own come before the tokenizer's settings, as in transformers.
    fn load(folder: &Path, config: Option<Object>, remarks: &mut Vec<String>) -> Result<Templates, Error> {
        let set = config.as_ref().and_then(|config| config.get("chat_template"));
        let default = read_text(&folder.join("chat_template.jinja"), Kind::Settings)?;
        let files = Templates { default, named: additional(folder)? };
        let templates = if files.default.is_some() || !files.named.is_empty() {
            let is_same = |set: &Value| set.as_str().is_some() && set.as_str() == files.default.as_deref();
            if set.is_some_and(|set| !is_same(set)) {
                remarks.push(
                    "`chat_template` of `tokenizer_config.json` is left out: there are files of templates".into(),
                );
            }
            files
        } else if let Some(set) = set {
            Templates::from_value(set, remarks)
        } else {
            // For templates of processors.
            let file = Document::read(folder.join("chat_template.json"), Kind::Settings)?;
            let value = file.as_ref().and_then(|file| file.root().get("chat_template"));
            value.map_or_else(Templates::default, |value| Templates::from_value(value, remarks))
        };
        if templates.default.is_none() && !templates.named.is_empty() {
            let names: Vec<&str> = templates.named.keys().map(String::as_str).collect();
            remarks.push(format!("none of the chat templates is named `default`: {}", names.join(", ")));
        }
        Ok(templates)
    }

    /// One template, or several by name: as a list of names and templates, or as an object.
    fn from_value(value: &Value, remarks: &mut Vec<String>) -> Templates {
        let mut templates = Templates::default();
        match value {
            Value::String(text) => templates.default = Some(text.clone()),
            Value::Array(list) => {
                list.iter().for_each(|item| templates.put(item["name"].as_str(), item["template"].as_str(), remarks));
            }
            Value::Object(map) => map.iter().for_each(|(name, text)| templates.put(Some(name), text.as_str(), remarks)),
            other => remarks.push(format!("the chat template is left out: {} is none", shown(other))),
        }
        templates
    }

    fn put(&mut self, name: Option<&str>, text: Option<&str>, remarks: &mut Vec<String>) {
        let name = name.map(key_name).filter(|name| !name.is_empty());
        match (name.as_deref(), text) {
            (Some("default"), Some(text)) => self.default = Some(text.to_owned()),
            (Some(name), Some(text)) => drop(self.named.insert(name.to_owned(), text.to_owned())),
            _ => remarks.push("a chat template without a name or a text is left out".into()),
        }
    }

    fn write(&self, meta: &mut Metadata) {
        for (name, text) in &self.named {
            meta.insert(format!("tokenizer.chat_template.{name}"), text.as_str());
        }
        if !self.named.is_empty() {
            meta.insert("tokenizer.chat_templates", self.named.keys().cloned().collect::<Vec<_>>());
        }
        if let Some(text) = &self.default {
            meta.insert("tokenizer.chat_template", text.as_str());
        }
    }
}

/// The templates of the folder `additional_chat_templates`, by their file names.
fn additional(folder: &Path) -> Result<IndexMap<String, String>, Error> {
    let folder = folder.join("additional_chat_templates");
    let Ok(entries) = std::fs::read_dir(&folder) else { return Ok(IndexMap::new()) };
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "jinja"));
    paths.sort();
    let mut named = IndexMap::new();
    for path in paths {
        let name = path.file_stem().map(|stem| key_name(&stem.to_string_lossy())).unwrap_or_default();
        if let Some(text) = read_text(&path, Kind::Settings)? {
            named.insert(name, text);
        }
    }
    Ok(named)
}

/// A name as it may stand in a metadata key.
fn key_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}
