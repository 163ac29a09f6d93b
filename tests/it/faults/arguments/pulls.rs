//! What several pulls at once, and hubs that lead elsewhere, make of a download.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::common::curtail;
use crate::common::fakehub::{COMMIT, FakeHub, sha256};
use crate::common::watched::run_within;

const TOKEN: &str = "hf_secret";

fn pull(endpoint: &str, home: &std::path::Path) -> Command {
    let mut command = curtail(&["pull", "o/r"]);
    for name in ["HF_TOKEN_PATH", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "http_proxy", "all_proxy"]
    {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command.env("HF_HOME", home).env("HF_ENDPOINT", endpoint).env("HF_TOKEN", TOKEN);
    command
}

#[test]
fn many_pulls_of_one_file_at_once_all_bring_it() {
    let bytes = vec![7; 3 << 20];
    for _ in 0..6 {
        let (hub, home) = (FakeHub::with(&[("m-Q4_0.gguf", &bytes)]), tempfile::tempdir().expect("a folder"));
        let start = |_| {
            let mut command = pull(&hub.endpoint, home.path());
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
        };
        let pulls: Vec<_> = (0..8).map(start).collect();
        let snapshot = home.path().join("hub/models--o--r/snapshots").join(COMMIT);
        for child in pulls {
            let output = child.wait_with_output().expect("it ends");
            assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(std::fs::read(snapshot.join("m-Q4_0.gguf")).expect("the file"), bytes);
        }
        assert_eq!(std::fs::read_dir(&snapshot).expect("a snapshot").count(), 1, "nothing else is left there");
    }
}

/// What a server says to a path.
type Reply = Box<dyn Fn(&str) -> Vec<u8> + Send + Sync>;

/// What was asked for: path and authorization.
type Asked = Arc<Mutex<Vec<(String, Option<String>)>>>;

/// A server whose answer to each path is what `reply` gives, after the headers of a status.
fn server(reply: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> (String, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let (asked, reply) = (Asked::default(), Arc::new(reply));
    let noted = Arc::clone(&asked);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (asked, reply) = (Arc::clone(&noted), Arc::clone(&reply));
            thread::spawn(move || answer(stream, &asked, &*reply));
        }
    });
    (endpoint, asked)
}

fn answer(mut stream: TcpStream, asked: &Asked, reply: &dyn Fn(&str) -> Vec<u8>) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines().map_while(Result::ok);
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let fields = lines.take_while(|line| !line.is_empty());
    let fields: Vec<(String, String)> = fields
        .filter_map(|line| line.split_once(':').map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())))
        .collect();
    let authorization = fields.iter().find(|(name, _)| name == "authorization").map(|(_, value)| value.clone());
    asked.lock().expect("no panic").push((path.clone(), authorization));
    stream.write_all(&reply(&path)).ok()
}

fn reply(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn listing(bytes: &[u8]) -> Vec<u8> {
    let file = serde_json::json!({"rfilename": "m-Q4_0.gguf", "size": bytes.len(), "lfs": {"sha256": sha256(bytes), "size": bytes.len()}});
    reply("200 OK", "", serde_json::json!({"sha": COMMIT, "siblings": [file]}).to_string().as_bytes())
}

#[test]
fn the_token_goes_to_no_other_port_of_the_same_host() {
    const BYTES: &[u8] = b"the bytes";
    let (storage, asked_of_storage) = server(|_| reply("200 OK", "", BYTES));
    let moved = format!("location: {storage}/cdn\r\nx-linked-etag: \"{}\"\r\nx-linked-size: 9\r\n", sha256(BYTES));
    let (endpoint, asked) = server(move |path| match path {
        // First elsewhere on the hub itself, where the token belongs too.
        _ if path.starts_with("/api/") => reply("307 Temporary Redirect", "location: /list\r\n", b""),
        "/list" => listing(BYTES),
        _ => reply("302 Found", &moved, b""),
    });
    let home = tempfile::tempdir().expect("a folder");
    run_within(&mut pull(&endpoint, home.path()), b"", Duration::from_secs(20)).with(0, &[]);
    let authorization = Some(format!("Bearer {TOKEN}"));
    let asked = asked.lock().expect("no panic");
    assert!(asked.iter().any(|(path, _)| path == "/list"), "{asked:?}");
    assert!(asked.iter().all(|(_, found)| *found == authorization), "{asked:?}");
    assert_eq!(*asked_of_storage.lock().expect("no panic"), [("/cdn".to_owned(), None)]);
}

#[test]
fn lists_that_are_none_are_errors_and_cost_little() {
    // No encoding is asked for, and none is unpacked: a bomb stays as small as it came.
    let gzip = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let circle = |_: &str| reply("302 Found", "location: /again\r\n", b"");
    let deep = "[".repeat(1 << 20);
    let siblings = format!(r#"{{"sha":"{COMMIT}","siblings":{deep}"#);
    let huge = format!(r#"{{"sha":"{COMMIT}","siblings":[{{"rfilename":"m.gguf","size":1e400}}]}}"#);
    let replies: [(&str, Reply); 5] = [
        ("expected a list of files", Box::new(move |_| reply("200 OK", "content-encoding: gzip\r\n", &gzip))),
        ("expected a list of files", Box::new(move |_| reply("200 OK", "", siblings.as_bytes()))),
        ("expected a list of files", Box::new(move |_| reply("200 OK", "", huge.as_bytes()))),
        ("found more than 64 MiB", Box::new(|_| reply("200 OK", "", &vec![b' '; 65 << 20]))),
        ("more than 10 redirects", Box::new(circle)),
    ];
    for (expected, reply) in replies {
        let (endpoint, _) = server(reply);
        let home = tempfile::tempdir().expect("a folder");
        run_within(&mut pull(&endpoint, home.path()), b"", Duration::from_secs(20)).with(1, &[expected]);
    }
}
