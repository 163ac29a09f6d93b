//! Owns the requests to the hub: the list of a repository's files, the head of a file, a file. Sends the token to the
//! hub's own host only; refuses names that would lead out of the cache.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{HeaderMap, Response, StatusCode, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, BodyReader};

use super::names::is_safe;
use super::{Error, Hub, Offer, io};

/// The longest silence of a server that is waited for.
const SILENCE: Duration = Duration::from_secs(60);

/// Redirects within the hub that are followed to a file's head.
const MAX_HOPS: usize = 5;

/// The longest list of files that is read, in bytes.
const MAX_LISTING: u64 = 64 << 20;

/// Speaks with a hub. Clones share their connections.
#[derive(Clone)]
pub(super) struct Client {
    agent: Agent,
    endpoint: Arc<str>,
    /// The whole header.
    authorization: Option<Arc<str>>,
}

/// The GGUF files of a repository at a commit.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) commit: String,
    pub(super) files: Vec<RemoteFile>,
}

/// What the list says about a file.
#[derive(Clone, Debug)]
pub(super) struct RemoteFile {
    pub(super) offer: Offer,
    /// In hexadecimal, where the file is one of git LFS.
    pub(super) sha256: Option<String>,
}

/// What the hub says about a file's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The SHA-256 of the bytes, or git's SHA-1 of them, in hexadecimal: the blob's name.
    pub(super) etag: String,
    pub(super) bytes: u64,
}

/// A file on its way.
pub(super) struct Download {
    /// Where the bytes that follow belong.
    pub(super) from: u64,
    pub(super) reader: BodyReader<'static>,
}

impl Client {
    /// # Errors
    /// Where the file of certificates cannot be read.
    pub(super) fn new(hub: &Hub) -> Result<Client, Error> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .user_agent(concat!("curtail/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(SILENCE / 2))
            .timeout_connect(Some(SILENCE / 2))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .tls_config(tls_config(hub)?);
        let authorization = hub.token().map(|token| format!("Bearer {token}").into());
        Ok(Client { agent: config.build().into(), endpoint: hub.endpoint.as_str().into(), authorization })
    }

    /// The GGUF files of a repository at a branch, tag or commit.
    pub(super) fn listing(&self, repo: &str, revision: &str) -> Result<Listing, Error> {
        let url = format!("{}/api/models/{repo}/revision/{}?blobs=true", self.endpoint, encoded(revision));
        let response = self.get(&url, None)?;
        if response.status() != StatusCode::OK {
            return Err(self.refused(repo, &format!("repository or revision `{revision}`"), &url, &response));
        }
        let text = response.into_body().into_with_config().limit(MAX_LISTING).read_to_string();
        let text = text.map_err(|error| Error::Network { url: url.clone(), why: error.to_string() })?;
        read_listing(&text).map_err(|(expected, found)| Error::Answer { url, expected, found })
    }

    /// What the hub says about a file of a commit, without its bytes.
    pub(super) fn head(&self, repo: &str, commit: &str, file: &RemoteFile) -> Result<Head, Error> {
        let mut url = self.file_url(repo, commit, &file.offer.name);
        for _ in 0..MAX_HOPS {
            let response = self.request_head(&url)?;
            if !response.status().is_success() && !response.status().is_redirection() {
                return Err(self.refused(repo, &format!("file `{}`", file.offer.name), &url, &response));
            }
            if let Some(found) = text(response.headers(), "x-repo-commit").filter(|found| found != commit) {
                return Err(Error::Answer { url, expected: "the commit that was asked for", found });
            }
            let next = text(response.headers(), "location").and_then(|to| within(&url, &to));
            match next.filter(|_| !response.headers().contains_key("x-linked-etag")) {
                Some(next) => url = next,
                None => {
                    return read_head(&response, file).map_err(|expected| Error::Answer {
                        url,
                        expected,
                        found: "none".into(),
                    });
                }
            }
        }
        Err(Error::Answer { url, expected: "a file", found: format!("more than {MAX_HOPS} redirects") })
    }

    /// Where the hub keeps a file of a commit.
    pub(super) fn file_url(&self, repo: &str, commit: &str, name: &str) -> String {
        let name: Vec<String> = name.split('/').map(encoded).collect();
        format!("{}/{repo}/resolve/{commit}/{}", self.endpoint, name.join("/"))
    }

    /// Begins to read a file at a byte; a server that cannot do that begins at the first.
    pub(super) fn download(&self, repo: &str, url: &str, from: u64) -> Result<Download, Error> {
        let response = self.get(url, Some(from).filter(|&from| from > 0))?;
        let from = match response.status() {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT => {
                let range = text(response.headers(), "content-range").unwrap_or_default();
                if range_start(&range) != Some(from) {
                    let expected = "the rest of the file";
                    return Err(Error::Answer {
                        url: url.to_owned(),
                        expected,
                        found: format!("content-range `{range}`"),
                    });
                }
                from
            }
            _ => return Err(self.refused(repo, "such file", url, &response)),
        };
        Ok(Download { from, reader: response.into_body().into_reader() })
    }

    fn get(&self, url: &str, from: Option<u64>) -> Result<Response<Body>, Error> {
        let mut request = self.agent.get(url);
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, &**authorization);
        }
        if let Some(from) = from {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        request.call().map_err(|error| unreachable(url, &error))
    }

    fn request_head(&self, url: &str) -> Result<Response<Body>, Error> {
        // The hub's own answer carries the checksum; the storage that it redirects to has another.
        let request = self.agent.head(url).config().max_redirects(0).max_redirects_will_error(false).build();
        let request = match &self.authorization {
            Some(authorization) => request.header(header::AUTHORIZATION, &**authorization),
            None => request,
        };
        request.call().map_err(|error| unreachable(url, &error))
    }

    /// Why the hub answers otherwise than with what was asked for.
    fn refused(&self, repo: &str, what: &str, url: &str, response: &Response<Body>) -> Error {
        let status = response.status();
        let detail =
            text(response.headers(), "x-error-message").map(|message| format!(": {message}")).unwrap_or_default();
        let (repo, code) = (repo.to_owned(), status.as_u16());
        match code {
            401 | 403 => Error::Access { repo: repo.clone(), status: code, detail, hint: self.hint(&repo) },
            404 => Error::Missing { repo, what: what.to_owned(), status: code, detail },
            408 | 429 | 500.. => Error::Network { url: url.to_owned(), why: format!("it answers {status}{detail}") },
            _ => Error::Answer { url: url.to_owned(), expected: "a success", found: format!("{status}{detail}") },
        }
    }

    fn hint(&self, repo: &str) -> String {
        let page = format!("{}/{repo}", self.endpoint);
        match self.authorization {
            Some(_) => format!("the token that is set gives no access to it; terms are accepted at {page}"),
            None => format!(
                "a private or gated repository needs an access token: set HF_TOKEN, or log in with `hf auth login`; terms are \
                 accepted at {page}. A repository that is misspelt is refused in the same way"
            ),
        }
    }
}

/// The trusted certificates: those of the file that is named, else Mozilla's.
fn tls_config(hub: &Hub) -> Result<TlsConfig, Error> {
    let Some(path) = &hub.certificates else { return Ok(TlsConfig::default()) };
    let pem = std::fs::read(path).map_err(io(path, "read"))?;
    let certificates = parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    Ok(TlsConfig::builder().root_certs(RootCerts::from(certificates)).build())
}

fn unreachable(url: &str, error: &ureq::Error) -> Error {
    Error::Network { url: url.to_owned(), why: error.to_string() }
}

/// The hub's answer about a repository, as far as it is used.
#[derive(Deserialize)]
struct ModelInfo {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

/// Reads the list of files; where it is none, what was expected and found.
fn read_listing(text: &str) -> Result<Listing, (&'static str, String)> {
    let info: ModelInfo = serde_json::from_str(text).map_err(|error| ("a list of files", error.to_string()))?;
    if !is_hex(&info.sha, &[40]) {
        return Err(("a commit of 40 hexadecimal digits", format!("{:?}", info.sha)));
    }
    let is_gguf = |file: &Sibling| file.rfilename.to_ascii_lowercase().ends_with(".gguf");
    let siblings: Vec<Sibling> = info.siblings.into_iter().filter(is_gguf).collect();
    if let Some(bad) = siblings.iter().find(|file| !is_safe(&file.rfilename)) {
        return Err(("names of files below the repository", format!("{:?}", bad.rfilename)));
    }
    let file = |file: Sibling| {
        let bytes = file.size.or(file.lfs.as_ref().and_then(|lfs| lfs.size));
        let sha256 = file.lfs.and_then(|lfs| lfs.sha256).filter(|sha| is_hex(sha, &[64]));
        RemoteFile { offer: Offer { name: file.rfilename, bytes }, sha256 }
    };
    Ok(Listing { commit: info.sha, files: siblings.into_iter().map(file).collect() })
}

/// Reads checksum and size; where one is missing, which.
fn read_head(response: &Response<Body>, file: &RemoteFile) -> Result<Head, &'static str> {
    let headers = response.headers();
    let stripped = |etag: String| etag.trim_start_matches("W/").trim_matches('"').to_ascii_lowercase();
    let etag = text(headers, "x-linked-etag").or_else(|| text(headers, "etag")).map(stripped);
    let etag = etag.filter(|etag| is_hex(etag, &[40, 64])).or_else(|| file.sha256.clone());
    let length = |name| text(headers, name).and_then(|text| text.parse().ok());
    let own_length = || length("content-length").filter(|_| response.status() == StatusCode::OK);
    let bytes = length("x-linked-size").or_else(own_length).or(file.offer.bytes);
    let etag = etag.ok_or("an ETag that is a SHA-256 or git's SHA-1")?;
    Ok(Head { etag, bytes: bytes.ok_or("the size of the file")? })
}

/// A header's value, in one line.
fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.trim().to_owned()).filter(|text| !text.is_empty())
}

fn is_hex(text: &str, lengths: &[usize]) -> bool {
    lengths.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Where a redirect leads, if it stays on the same host.
fn within(url: &str, location: &str) -> Option<String> {
    let host_at = url.find("://")? + 3;
    let origin = &url[..url[host_at..].find('/').map_or(url.len(), |end| host_at + end)];
    if location.starts_with('/') && !location.starts_with("//") {
        return Some(format!("{origin}{location}"));
    }
    location.strip_prefix(origin)?.starts_with('/').then(|| location.to_owned())
}

/// The first byte of `bytes 10-19/20`.
fn range_start(range: &str) -> Option<u64> {
    range.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}

/// A piece of a path as it stands in an address.
fn encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn a_list_is_read_with_sizes_and_checksums_where_there_are_any() {
        let sha = "ab".repeat(32);
        let text = format!(
            r#"{{"sha":"{COMMIT}","x":1,"siblings":[{{"rfilename":"a/m.gguf","size":5,"lfs":{{"sha256":"{sha}","size":5,"pointerSize":1}}}},{{"rfilename":"README.md"}},{{"rfilename":"n.gguf"}}]}}"#
        );
        let listing = read_listing(&text).unwrap();
        assert_eq!((listing.commit.as_str(), listing.files.len()), (COMMIT, 2));
        assert_eq!(listing.files[0].sha256.as_ref(), Some(&sha));
        assert_eq!(listing.files[0].offer, Offer { name: "a/m.gguf".into(), bytes: Some(5) });
        assert_eq!(listing.files[1].offer.bytes, None);
    }

    #[test]
    fn a_list_that_leads_elsewhere_is_refused() {
        for name in ["../m.gguf", "/m.gguf", "a\\\\m.gguf", "a/../../m.gguf", "C:m.gguf"] {
            let text = format!(r#"{{"sha":"{COMMIT}","siblings":[{{"rfilename":"{name}"}}]}}"#);
            assert_eq!(read_listing(&text).unwrap_err().0, "names of files below the repository", "{name}");
        }
        for sha in ["../../x", "main", &COMMIT[1..]] {
            let text = format!(r#"{{"sha":"{sha}","siblings":[]}}"#);
            assert_eq!(read_listing(&text).unwrap_err().0, "a commit of 40 hexadecimal digits", "{sha}");
        }
        assert_eq!(read_listing("<html>").unwrap_err().0, "a list of files");
    }

    #[test]
    fn redirects_are_followed_on_the_same_host_only() {
        let url = "https://h.co:8/o/r/resolve/c/m.gguf";
        assert_eq!(within(url, "/x/y").as_deref(), Some("https://h.co:8/x/y"));
        assert_eq!(within(url, "https://h.co:8/x").as_deref(), Some("https://h.co:8/x"));
        for other in ["//cdn.co/x", "https://h.co:80/x", "https://h.co/x", "http://h.co:8/x", "https://cdn.co/x"] {
            assert_eq!(within(url, other), None, "{other}");
        }
    }

    #[test]
    fn small_things_of_the_protocol() {
        assert_eq!(range_start("bytes 10-19/20"), Some(10));
        assert_eq!(range_start("bytes */20"), None);
        assert_eq!(encoded("a b#é/x"), "a%20b%23%C3%A9%2Fx");
    }
}
