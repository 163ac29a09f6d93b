//! Models of a hub: finds them in the local cache, downloads them into it, removes them from it. Owns the names of models
//! (`org/repo:Q4_K_M`), the layout of the cache and the protocol; refuses to print, to run anything and to know what a
//! model file holds.
//!
//! The cache is the one of Python's `huggingface_hub`, folder for folder, so that programs share what each has
//! downloaded. Reading it needs no network, and no client is made before something is downloaded.
//!
//! Why not the crate `hf-hub`: 1.0.0, current when this was written, is asynchronous inside (tokio, reqwest, hyper and hf-xet: 326
//! locked packages with rustls, against 50 with ureq), cannot resume a download (its issue 196) and compares no checksum; the
//! blocking 0.5.0, which it replaces, compares none either. What is needed of the protocol is three requests: a list of
//! files, the head of a file, the file.

mod cache;
mod choose;
mod client;
mod download;
mod error;
mod fetch;
mod names;
mod remove;
mod shared;
mod spec;

use std::env;
use std::path::{Path, PathBuf};

pub use cache::{Cache, CachedModel, Found};
pub use choose::Offer;
pub use download::{Pulled, PulledFile, names_in_answer, pull};
pub use error::Error;
pub use fetch::{Event, Watch};
pub use names::is_model;
pub use remove::{Removal, plan_removal};
pub use spec::{Part, Spec};

use crate::text;

/// Where models come from and where they are kept.
#[derive(Clone, Debug)]
pub struct Hub {
    /// The cache.
    pub cache: Cache,
    /// Address of the hub, without a slash at its end.
    pub endpoint: String,
    /// No request is made.
    pub offline: bool,
    token: Option<String>,
    token_file: PathBuf,
    certificates: Option<PathBuf>,
}

impl Hub {
    /// The hub that the environment describes, by the variables of Python's `huggingface_hub`: `HF_ENDPOINT`, `HF_TOKEN`,
    /// `HF_TOKEN_PATH`, `HF_HUB_CACHE`, `HF_HOME`, `HF_HUB_OFFLINE`; `SSL_CERT_FILE` names other root certificates than Mozilla's.
    ///
    /// # Errors
    /// Where nothing says where the cache is, or the address of the hub is none.
    pub fn from_env() -> Result<Hub, Error> {
        let home = hub_home()?;
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            return Err(Error::Setting { name: "HF_ENDPOINT", expected: "http://... or https://...", found: endpoint });
        }
        let cache = path_in("HF_HUB_CACHE").or_else(|| path_in("HUGGINGFACE_HUB_CACHE"));
        Ok(Hub {
            cache: Cache::at(cache.unwrap_or_else(|| home.join("hub"))),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            offline: set("HF_HUB_OFFLINE").is_some_and(|value| is_true(&value)),
            token: set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN")),
            token_file: path_in("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token")),
            certificates: path_in("SSL_CERT_FILE"),
        })
    }

    /// What proves to the hub who asks: the variable's value, else what the token file holds.
    fn token(&self) -> Option<String> {
        let in_file = || text::read(&self.token_file, text::SETTINGS_BYTES).ok();
        let token = self.token.clone().or_else(in_file)?;
        Some(token.trim().to_owned()).filter(|token| !token.is_empty())
    }
}

/// The folder that `HF_HOME` names, else `huggingface` in the user's cache.
fn hub_home() -> Result<PathBuf, Error> {
    let in_cache = || Some(path_in("XDG_CACHE_HOME")?.join("huggingface"));
    let in_home = || Some(env::home_dir()?.join(".cache").join("huggingface"));
    path_in("HF_HOME").or_else(in_cache).or_else(in_home).ok_or_else(|| Error::Setting {
        name: "HF_HOME",
        expected: "a folder, as there is no home folder",
        found: "nothing".into(),
    })
}

/// The value of a variable that is set to something.
fn set(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// The path in a variable; `~` is the home folder.
fn path_in(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env::var_os(name).filter(|value| !value.is_empty())?);
    match path.strip_prefix("~") {
        Ok(rest) => Some(env::home_dir()?.join(rest)),
        Err(_) => Some(path),
    }
}

fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())
}

/// An error of the file system at `path`.
fn io(path: &Path, action: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::Io { path: path.to_owned(), action, source }
}
