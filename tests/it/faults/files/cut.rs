//! A model file that is cut while it is in use.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use super::OnDisk;
use crate::common::curtail;
use crate::common::tiny::Tiny;

#[test]
fn a_file_that_is_cut_while_it_is_in_use_is_named() {
    let model = OnDisk::new(&Tiny::sized(512, 512));
    let arguments = ["chat", "-m", model.name(), "-n", "2", "-t", "2", "--temp", "0"];
    let mut command = curtail(&arguments);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let (mut stdin, out) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
    stdin.write_all(b"the hat\n").expect("it reads");
    // After the first answer everything is loaded, and weights lie in the map.
    BufReader::new(out).read_line(&mut String::new()).expect("an answer");
    std::fs::File::options().write(true).open(&model.path).and_then(|file| file.set_len(4096)).expect("cut");
    let _ = stdin.write_all(b"and then there\n"); // it may be over already
    drop(stdin);
    let mut said = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
    let status = child.wait().expect("a child of ours");
    assert_eq!((status.code(), status.signal()), (Some(1), None), "{said}");
    assert!(said.contains("became shorter while it was in use") && said.contains(model.name()), "{said}");
}
