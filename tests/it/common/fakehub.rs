//! A hub on this machine that serves one repository, `o/r`, with the answers that the real one gives: a list of files, heads
//! with checksums, redirects to a second host, parts of files. It can be told to misbehave. A request a connection.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};

/// The commit that `main`, `v1` and itself mean.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the hub has, and how it behaves.
#[derive(Default)]
pub(crate) struct State {
    /// Files of git LFS, by name.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// Names in the list that have no bytes.
    pub(crate) names: Vec<String>,
    /// Files kept in git itself, which are not redirected.
    pub(crate) plain: BTreeMap<String, Vec<u8>>,
    /// Only who brings this token may read.
    pub(crate) token: Option<String>,
    /// The next downloads end after so many bytes, each after its own number.
    pub(crate) cuts: Vec<usize>,
    /// Downloads fall silent after so many bytes.
    pub(crate) silent_after: Option<usize>,
    /// The next so many downloads that are not cut are refused with this status.
    pub(crate) refusals: Vec<u16>,
    /// Downloads bring other bytes than the checksum's.
    pub(crate) wrong: bool,
    /// Downloads begin at the first byte, whatever is asked for.
    pub(crate) no_ranges: bool,
    /// The size that all heads name.
    pub(crate) claimed_bytes: Option<u64>,
    /// The list lacks sizes and checksums.
    pub(crate) bare_list: bool,
    /// What was asked for.
    pub(crate) requests: Vec<Request>,
}

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) range: Option<String>,
    /// The first byte of the range.
    from: usize,
}

pub(crate) struct FakeHub {
    pub(crate) endpoint: String,
    state: Arc<Mutex<State>>,
}

impl FakeHub {
    /// A hub that answers until the test ends.
    pub(crate) fn start(state: State) -> FakeHub {
        let listen = || TcpListener::bind("127.0.0.1:0").expect("a port");
        let (hub, storage) = (listen(), listen());
        let address = |listener: &TcpListener| format!("http://{}", listener.local_addr().expect("an address"));
        // Another name of the same machine: another host.
        let storage_address = address(&storage).replace("127.0.0.1", "localhost");
        let (endpoint, state) = (address(&hub), Arc::new(Mutex::new(state)));
        for listener in [hub, storage] {
            let (state, storage) = (Arc::clone(&state), storage_address.clone());
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let (state, storage) = (Arc::clone(&state), storage.clone());
                    thread::spawn(move || answer(stream, &state, &storage));
                }
            });
        }
        FakeHub { endpoint, state }
    }

    /// A hub with these files of git LFS.
    pub(crate) fn with(files: &[(&str, &[u8])]) -> FakeHub {
        let files = files.iter().map(|&(name, bytes)| (name.to_owned(), bytes.to_vec())).collect();
        FakeHub::start(State { files, ..State::default() })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    /// The ranges that downloads from the storage asked for, in their order.
    pub(crate) fn ranges(&self) -> Vec<Option<String>> {
        let state = self.state();
        state.requests.iter().filter(|r| r.path.starts_with("/cdn/")).map(|r| r.range.clone()).collect()
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

/// The checksum by which git names a file.
pub(crate) fn git_sha1(bytes: &[u8]) -> String {
    hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat()).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn answer(mut stream: TcpStream, state: &Mutex<State>, storage: &str) {
    let Some(request) = read(&stream) else { return };
    let mut state = state.lock().expect("no panic");
    state.requests.push(request.clone());
    if request.path.starts_with("/cdn/") {
        return send_bytes(stream, &request, state);
    }
    let reply = hub_reply(&request, &state, storage);
    drop(state);
    // A client that is gone is no failure.
    let _ = stream.write_all(&reply);
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let first = lines.next()?;
    let mut words = first.split(' ');
    let mut request = Request { method: words.next()?.into(), path: words.next()?.into(), ..Request::default() };
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        match name.to_ascii_lowercase().as_str() {
            "authorization" => request.authorization = Some(value.trim().into()),
            "range" => request.range = Some(value.trim().into()),
            _ => {}
        }
    }
    if let Some(range) = &request.range {
        request.from = range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()?;
    }
    Some(request)
}

fn hub_reply(request: &Request, state: &State, storage: &str) -> Vec<u8> {
    let authorized = state.token.as_ref().is_none_or(|t| request.authorization == Some(format!("Bearer {t}")));
    let path = request.path.split('?').next().unwrap_or_default();
    // A repository that was renamed.
    if let Some(rest) = path.strip_prefix("/api/models/old/name/") {
        return reply("307 Temporary Redirect", &[("location", &format!("/api/models/o/r/{rest}"))], b"");
    }
    if let Some(rest) = path.strip_prefix("/old/name/") {
        return reply("307 Temporary Redirect", &[("location", &format!("/o/r/{rest}"))], b"");
    }
    if !authorized {
        return reply(
            "401 Unauthorized",
            &[("x-error-code", "GatedRepo"), ("x-error-message", "Access is restricted.")],
            b"",
        );
    }
    if let Some(revision) = path.strip_prefix("/api/models/o/r/revision/") {
        return match revision {
            "main" | "v1" | "refs%2Fpr%2F1" | COMMIT => {
                reply("200 OK", &[("content-type", "application/json")], listing(state).as_bytes())
            }
            _ => reply(
                "404 Not Found",
                &[("x-error-code", "RevisionNotFound"), ("x-error-message", "Invalid rev id")],
                b"",
            ),
        };
    }
    let name = path.strip_prefix(&format!("/o/r/resolve/{COMMIT}/")).map(|name| name.replace("%20", " "));
    let Some(name) = name else {
        return reply(
            "404 Not Found",
            &[("x-error-code", "RepoNotFound"), ("x-error-message", "Repository not found")],
            b"",
        );
    };
    if let Some(bytes) = state.plain.get(&name) {
        let etag = format!("\"{}\"", git_sha1(bytes));
        let body: &[u8] = if request.method == "HEAD" { b"" } else { bytes };
        return with_length("200 OK", &[("x-repo-commit", COMMIT), ("etag", &etag)], bytes.len(), body);
    }
    let Some(bytes) = state.files.get(&name) else {
        return reply("404 Not Found", &[("x-error-code", "EntryNotFound")], b"");
    };
    let (sum, size) = (sha256(bytes), state.claimed_bytes.unwrap_or(bytes.len() as u64));
    let headers = [
        ("location", format!("{storage}/cdn/{sum}?signed=1")),
        ("x-repo-commit", COMMIT.to_owned()),
        ("x-linked-etag", format!("\"{sum}\"")),
        ("x-linked-size", size.to_string()),
        ("etag", "\"of-the-redirect\"".to_owned()),
        ("accept-ranges", "bytes".to_owned()),
    ];
    reply("302 Found", &headers.each_ref().map(|(name, value)| (*name, value.as_str())), b"")
}

/// Sends a file from the storage, as far as it is told to.
fn send_bytes(mut stream: TcpStream, request: &Request, mut state: MutexGuard<State>) {
    let sum = request.path["/cdn/".len()..].split('?').next().unwrap_or_default();
    let mut bytes = state.files.values().find(|bytes| sha256(bytes) == sum).expect("a link that the hub gave").clone();
    if state.wrong {
        bytes[0] ^= 1;
    }
    let cut = if state.cuts.is_empty() { None } else { Some(state.cuts.remove(0)) };
    if cut.is_none() && !state.refusals.is_empty() {
        let status = format!("{} Refused", state.refusals.remove(0));
        let _ = stream.write_all(&reply(&status, &[], b""));
        return;
    }
    let from = if state.no_ranges { 0 } else { request.from };
    let silent_after = state.silent_after;
    drop(state);
    let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
    let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
    let rest = &bytes[from..];
    let sent = &rest[..cut.or(silent_after).unwrap_or(rest.len()).min(rest.len())];
    let _ = stream.write_all(&with_length(status, &[("content-range", &range)], rest.len(), sent));
    let _ = stream.flush();
    if silent_after.is_some() {
        thread::sleep(Duration::from_secs(120));
    }
}

fn listing(state: &State) -> String {
    let lfs = state.files.iter().map(|(name, bytes)| {
        let (sum, size) = (sha256(bytes), bytes.len());
        match state.bare_list {
            true => serde_json::json!({"rfilename": name}),
            false => serde_json::json!({"rfilename": name, "size": size, "lfs": {"sha256": sum, "size": size, "pointerSize": 130}}),
        }
    });
    let plain = state.plain.iter().map(|(name, bytes)| serde_json::json!({"rfilename": name, "size": bytes.len()}));
    let names = state.names.iter().map(|name| serde_json::json!({"rfilename": name, "size": 4_u64 << 30}));
    let siblings: Vec<_> = lfs.chain(plain).chain(names).collect();
    serde_json::json!({"id": "o/r", "sha": COMMIT, "siblings": siblings}).to_string()
}

fn reply(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    with_length(status, headers, body.len(), body)
}

fn with_length(status: &str, headers: &[(&str, &str)], length: usize, body: &[u8]) -> Vec<u8> {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n");
    [head.as_bytes(), body].concat()
}
