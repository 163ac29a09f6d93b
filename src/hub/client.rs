//! Owns the requests to the hub: the list of a repository's files, the head of a file, a file. Sends the token to the
//! hub's own origin (scheme, host and port) only; refuses names that would lead out of the cache.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::{HeaderMap, Response, StatusCode, Uri, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::typestate::WithoutBody;
use ureq::{Agent, Body, BodyReader, RequestBuilder};

use super::names::is_safe;
use super::{Error, Hub, Offer, io};
use crate::files;

/// The longest silence of a server that is waited for.
const SILENCE: Duration = Duration::from_secs(60);

/// Redirects that are followed to a file.
const MAX_HOPS: usize = 10;

/// The longest list of files that is read, in bytes.
const MAX_LISTING: u64 = 64 << 20;

/// What is expected of it.
const LIST: &str = "a list of files";

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
            // Redirects are followed here: ureq would send the token to another port of the same host.
            .max_redirects(0)
            .max_redirects_will_error(false)
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
        match response.into_body().into_with_config().limit(MAX_LISTING).read_to_vec() {
            Ok(bytes) => read_listing(&bytes).map_err(|(expected, found)| Error::Answer { url, expected, found }),
            Err(ureq::Error::BodyExceedsLimit(_)) => {
                let found = format!("more than {} MiB", MAX_LISTING >> 20);
                Err(Error::Answer { url, expected: LIST, found })
            }
            Err(error) => Err(unreachable(&url, &error)),
        }
    }

    /// What the hub says about a file of a commit, without its bytes.
    pub(super) fn head(&self, repo: &str, commit: &str, file: &RemoteFile) -> Result<Head, Error> {
        let mut url = self.file_url(repo, commit, &file.offer.name);
        for _ in 0..MAX_HOPS {
            let response = self.send(self.agent.head(&url), &url)?;
            if !response.status().is_success() && !response.status().is_redirection() {
                return Err(self.refused(repo, &format!("file `{}`", file.offer.name), &url, &response));
            }
            if let Some(found) = text(response.headers(), "x-repo-commit").filter(|found| found != commit) {
                return Err(Error::Answer { url, expected: "the commit that was asked for", found });
            }
            // The hub's own answer carries the checksum; the storage that it redirects to has another.
            let next = redirect(&url, &response).filter(|next| is_same_origin(next, &url));
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
        Err(endless(url))
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

    /// Asks for a file, from a byte on, wherever the hub says that it lies.
    fn get(&self, url: &str, from: Option<u64>) -> Result<Response<Body>, Error> {
        let mut url = url.to_owned();
        for _ in 0..MAX_HOPS {
            let mut request = self.agent.get(&url);
            if let Some(from) = from {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            let response = self.send(request, &url)?;
            match redirect(&url, &response) {
                Some(next) => url = next,
                None => return Ok(response),
            }
        }
        Err(endless(url))
    }

    /// Sends a request, with the token where it goes to the hub itself.
    fn send(&self, request: RequestBuilder<WithoutBody>, url: &str) -> Result<Response<Body>, Error> {
        let authorization = self.authorization.as_deref().filter(|_| is_same_origin(url, &self.endpoint));
        let request = match authorization {
            Some(authorization) => request.header(header::AUTHORIZATION, authorization),
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
    let pem = files::read_regular(path, MAX_LISTING).map_err(io(path, "read"))?;
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
pub(super) fn read_listing(bytes: &[u8]) -> Result<Listing, (&'static str, String)> {
    let info: ModelInfo = serde_json::from_slice(bytes).map_err(|error| (LIST, error.to_string()))?;
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

fn endless(url: String) -> Error {
    Error::Answer { url, expected: "a file", found: format!("more than {MAX_HOPS} redirects") }
}

/// Where an answer redirects to, if it does.
fn redirect(url: &str, response: &Response<Body>) -> Option<String> {
    let location = text(response.headers(), "location").filter(|_| response.status().is_redirection())?;
    absolute(url, &location)
}

/// The address that a location means, seen from `url`.
fn absolute(url: &str, location: &str) -> Option<String> {
    let host_at = url.find("://")? + 3;
    let (before, path) = url.split_at(url[host_at..].find(['/', '?', '#']).map_or(url.len(), |end| host_at + end));
    let folder = path.split(['?', '#']).next()?.rsplit_once('/').map_or("", |(folder, _)| folder);
    Some(match location {
        _ if location.contains("://") => location.to_owned(),
        _ if location.starts_with("//") => format!("{}{location}", &url[..host_at - 2]),
        _ if location.starts_with('/') => format!("{before}{location}"),
        _ => format!("{before}{folder}/{location}"),
    })
}

/// Whether two addresses have scheme, host and port in common: only then it is certain who gets what is sent.
fn is_same_origin(a: &str, b: &str) -> bool {
    origin(a).is_some_and(|a| origin(b) == Some(a))
}

fn origin(url: &str) -> Option<(String, String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let port = match scheme.as_str() {
        "https" => uri.port_u16().unwrap_or(443),
        "http" => uri.port_u16().unwrap_or(80),
        _ => return None,
    };
    Some((scheme, uri.host()?.to_ascii_lowercase(), port))
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
        let listing = read_listing(text.as_bytes()).unwrap();
        assert_eq!((listing.commit.as_str(), listing.files.len()), (COMMIT, 2));
        assert_eq!(listing.files[0].sha256.as_ref(), Some(&sha));
        assert_eq!(listing.files[0].offer, Offer { name: "a/m.gguf".into(), bytes: Some(5) });
        assert_eq!(listing.files[1].offer.bytes, None);
    }

    #[test]
    fn a_list_that_leads_elsewhere_is_refused() {
        for name in ["../m.gguf", "/m.gguf", "a\\\\m.gguf", "a/../../m.gguf", "C:m.gguf"] {
            let text = format!(r#"{{"sha":"{COMMIT}","siblings":[{{"rfilename":"{name}"}}]}}"#);
            assert_eq!(read_listing(text.as_bytes()).unwrap_err().0, "names of files below the repository", "{name}");
        }
        for sha in ["../../x", "main", &COMMIT[1..]] {
            let text = format!(r#"{{"sha":"{sha}","siblings":[]}}"#);
            assert_eq!(read_listing(text.as_bytes()).unwrap_err().0, "a commit of 40 hexadecimal digits", "{sha}");
        }
        assert_eq!(read_listing(b"<html>").unwrap_err().0, "a list of files");
    }

    #[test]
    fn locations_are_seen_from_where_they_are_said() {
        let url = "https://h.co:8/o/r/m.gguf?x=a/b";
        for (location, expected) in [
            ("/x/y", "https://h.co:8/x/y"),
            ("n.gguf?y", "https://h.co:8/o/r/n.gguf?y"),
            ("//cdn.co/x", "https://cdn.co/x"),
            ("http://cdn.co/x", "http://cdn.co/x"),
        ] {
            assert_eq!(absolute(url, location).as_deref(), Some(expected), "{location}");
        }
        assert_eq!(absolute("http://h.co", "x").as_deref(), Some("http://h.co/x"));
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let url = "https://h.co/o/r";
        for same in ["https://h.co/", "https://H.CO:443/x", "https://h.co?x"] {
            assert!(is_same_origin(url, same), "{same}");
        }
        for other in
            ["https://h.co:8/", "http://h.co/", "http://h.co:443/", "https://h.co.evil/", "https://h.co@evil/", "x"]
        {
            assert!(!is_same_origin(url, other), "{other}");
        }
    }

    #[test]
    fn small_things_of_the_protocol() {
        assert_eq!(range_start("bytes 10-19/20"), Some(10));
        assert_eq!(range_start("bytes */20"), None);
        assert_eq!(encoded("a b#é/x"), "a%20b%23%C3%A9%2Fx");
    }
}
