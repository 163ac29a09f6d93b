//! Layers on workers over loopback: the CPU's tokens, whatever ends early and whoever dies.

use std::net::{TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::{curtail, demo_model};
use curtail::engine::{Branch, Cut, EngineParams, Error, Probe, Sequence, TokenId, View};
use curtail::generate::{Decoder, Kv, Mode, Options, Source};
use curtail::ggml::{self, Device};
use curtail::gguf::File;
use curtail::model::{Config, LayerStep, Model, Placement};
use curtail::plan::Depth;
use curtail::sample::{Sampler, SamplerParams};

/// A worker that dies with its owner.
struct Worker {
    child: Child,
    port: u16,
}

impl Worker {
    fn start() -> Worker {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        Worker::start_at(port)
    }

    fn start_at(port: u16) -> Worker {
        let mut command = curtail(&["rpc-server", "-t", "1", "-p", &port.to_string()]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        let worker = Worker { child, port };
        let start = Instant::now();
        while TcpStream::connect(worker.address()).is_err() {
            assert!(start.elapsed() < Duration::from_secs(20), "no worker at port {port}");
            std::thread::sleep(Duration::from_millis(20));
        }
        worker
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn kill(&mut self) {
        self.child.kill().expect("it was there");
        self.child.wait().expect("it ends");
    }

    /// A new one at the same address.
    fn restart(&mut self) {
        *self = Worker::start_at(self.port);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const N_LAYER: usize = 30;

/// The demo model with the layers before `border` on the first worker, the others on the second.
fn spread(workers: &[Worker; 2], border: usize) -> Arc<Model> {
    let file = Arc::new(File::open(Path::new(&demo_model())).expect("a model file"));
    let mut devices = vec![Device::cpu(1).expect("a CPU")];
    workers.iter().for_each(|worker| devices.extend(Device::remote(&worker.address(), 0).expect("a worker")));
    let layers = (0..N_LAYER).map(|il| if il < border { 1 } else { 2 }).collect();
    let config = Config::from_gguf(&file).expect("a configuration");
    let mut sent = 0;
    let placement = Placement::new(devices, layers, 0);
    let model = Model::place(file.clone(), config, placement, &mut |bytes| sent = bytes).expect("it loads");
    let of_layers = file.tensors().iter().filter(|t| t.name.starts_with("blk.")).map(|t| t.bytes);
    assert_eq!(sent, of_layers.sum::<usize>(), "the weights of all layers are sent, and nothing else");
    Arc::new(model)
}

fn local() -> Arc<Model> {
    let file = Arc::new(File::open(Path::new(&demo_model())).expect("a model file"));
    Arc::new(Model::load(file, Device::cpu(1).expect("a CPU")).expect("it loads"))
}

fn sequence(model: &Arc<Model>, params: EngineParams) -> Sequence {
    Sequence::alone(model.clone(), EngineParams { n_ctx: 192, ..params }).expect("a sequence")
}

fn start(sequence: &mut Sequence, prompt: &[TokenId]) {
    sequence.sync(prompt, &mut |_, _| ControlFlow::Continue(())).expect("it runs");
}

fn greedy() -> Sampler {
    Sampler::new(SamplerParams { temperature: 0.0, ..SamplerParams::default() })
}

fn steps(sequence: &mut Sequence, n: usize) -> Vec<TokenId> {
    (0..n).map(|_| sequence.step(&mut greedy()).expect("a token").token).collect()
}

/// "The capital of France is", "Once upon a time there was a", "def add(a, b):"
fn prompts() -> Vec<Vec<TokenId>> {
    let file = File::open(Path::new(&demo_model())).expect("a model file");
    let tokenizer = curtail::tokenizer::Tokenizer::from_gguf(file.metadata()).expect("a tokenizer");
    let encode = |text: &str| tokenizer.encode_with_bos(text, curtail::tokenizer::Special::Plain);
    ["The capital of France is", "Once upon a time there was a", "def add(a, b):"].map(encode).to_vec()
}

#[test]
fn two_workers_give_the_tokens_of_the_cpu() {
    let workers = [Worker::start(), Worker::start()];
    let (model, local) = (spread(&workers, 13), local());
    for prompt in prompts() {
        let mut here = sequence(&local, EngineParams::default());
        start(&mut here, &prompt);
        let expected = steps(&mut here, 24);

        let mut there = sequence(&model, EngineParams { n_batch: 4, ..EngineParams::default() });
        start(&mut there, &prompt);
        assert_eq!(steps(&mut there, 24), expected, "at full depth");

        // Cuts inside the workers' layers and at their border; pending rows on the workers.
        let cuts = [5, 13, 21].map(Depth).to_vec();
        let mut there = sequence(&model, EngineParams { cuts: cuts.clone(), ..EngineParams::default() });
        start(&mut there, &prompt);
        assert_eq!(steps(&mut there, 1), expected[..1]);
        for (i, &token) in expected.iter().enumerate().skip(1).take(8) {
            let depth = cuts[i % cuts.len()];
            let hidden = there.hidden_state_at(depth).expect("it runs");
            assert!(hidden.len() == 576 && hidden.iter().all(|x| x.is_finite()));
            assert_eq!(there.step(&mut greedy()).expect("a token").token, token, "after a look at {depth}");
        }

        // Drafts of a draft plan over both workers, verified: right or wrong, the tokens are full depth's.
        let draft_plan = (0..N_LAYER).filter(|il| !(8..11).contains(il)).map(LayerStep::whole).collect();
        let mut there = sequence(&model, EngineParams { draft_plan, ..EngineParams::default() });
        start(&mut there, &prompt);
        let mode = Mode::Verified(Source::Plan);
        let options = Options { mode, source: Source::Plan, checkpoints: Vec::new(), kv: Kv::Deferred, most: 3 };
        let mut decoder = Decoder::new(options);
        let mut sampler = greedy();
        let found: Vec<TokenId> =
            (0..24).map(|_| decoder.step(&mut there, &mut sampler).expect("a token").token).collect();
        assert_eq!(found, expected, "verified");
    }
}

#[test]
fn what_is_read_on_a_worker_is_what_would_be_read_here() {
    let workers = [Worker::start(), Worker::start()];
    let model = spread(&workers, 13);
    let (n_embd, n_out) = (model.config().n_embd, 3);
    let weights: Vec<f32> = (0..n_embd * n_out).map(|i| ((i * 7919 % 1000) as f32 - 500.0) / 2e4).collect();
    // 13 is where the state changes workers, and comes here anyway.
    let depths = [4, 9, 13, 20].map(Depth);
    let probe = |&depth: &Depth| Probe { depth, weights: weights.clone(), bias: vec![0.25, 0.0, -0.25] };
    let probes = depths.iter().map(probe).collect();
    let mut there = sequence(&model, EngineParams { probes, ..EngineParams::default() });
    start(&mut there, &prompts()[0]);
    for _ in 0..3 {
        there.step(&mut greedy()).expect("a token");
        for depth in depths {
            let reading = there.probe_at(depth).expect("it runs");
            assert_eq!(reading.is_none(), depth == Depth(13));
            let Some(reading) = reading else { continue };
            let x = there.normed_state_at(depth).expect("it waits there");
            let sum = |w: &[f32]| w.iter().zip(&x).map(|(w, x)| f64::from(w * x)).sum::<f64>();
            let logits: Vec<f64> =
                weights.chunks_exact(n_embd).zip([0.25, 0.0, -0.25]).map(|(w, b)| sum(w) + b).collect();
            let all: f64 = logits.iter().map(|x| x.exp()).sum();
            assert_eq!(reading.len(), n_out);
            for (found, logit) in reading.iter().zip(&logits) {
                let expected = logit.exp() / all;
                assert!((f64::from(*found) - expected).abs() < 1e-5, "{depth}: {found} instead of {expected}");
            }
        }
    }
    let tokens = &prompts()[1];
    let question = Branch { tokens, shown: 2 };
    let mut seen = Vec::new();
    let mut look = |cuts: &[Cut]| {
        seen.push(cuts[0].clone());
        vec![false]
    };
    there.fan_out(&[], &[question], &[Depth(4), Depth(13)], View::Hidden, &mut look).expect("it runs");
    let lengths: Vec<_> = seen.iter().map(|cut| (cut.depth.0, cut.hidden.len(), cut.reading.len())).collect();
    assert_eq!(lengths, [(4, 0, 2 * n_out), (13, 2 * n_embd, 0), (N_LAYER, 2 * n_embd, 0)]);
    assert!(seen[0].reading.chunks(n_out).all(|chances| (chances.iter().sum::<f32>() - 1.0).abs() < 1e-5));
    there.sync(&prompts()[0], &mut |_, _| ControlFlow::Continue(())).expect("it runs");
    there.set_probes(Vec::new()).expect("nothing to send");
    there.step(&mut greedy()).expect("a token");
    assert_eq!(there.probe_at(Depth(4)).expect("it runs"), None);
    let wrong = Probe { depth: Depth(4), weights: vec![0.0; 5], bias: vec![0.0] };
    assert!(matches!(there.set_probes(vec![wrong]), Err(Error::Parameter { name: "probes", .. })));
}

#[test]
fn machines_behind_the_exit_are_not_asked() {
    let mut workers = [Worker::start(), Worker::start()];
    let (model, local) = (spread(&workers, 13), local());
    let prompt = &prompts()[0];
    let (mut here, mut there) = (sequence(&local, EngineParams::default()), sequence(&model, EngineParams::default()));
    for sequence in [&mut here, &mut there] {
        start(sequence, prompt);
        sequence.step(&mut greedy()).expect("a token");
    }
    workers[1].kill();
    let (expected, found) = (
        here.hidden_state_at(Depth(13)).expect("it runs"),
        there.hidden_state_at(Depth(13)).expect("the first worker is enough"),
    );
    let cosine = |a: &[f32], b: &[f32]| {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    };
    assert!(cosine(&expected, &found) > 0.999, "{}", cosine(&expected, &found));
    assert_eq!(there.logits_of_states(&found).expect("the head is here").len(), model.config().n_vocab);
    for _ in 0..2 {
        assert!(matches!(there.step(&mut greedy()), Err(Error::Ggml(ggml::Error::Lost { .. }))), "deeper it is");
        there.push(100).expect("room");
        there.hidden_state_at(Depth(13)).expect("that the second is lost is none of the first's business");
    }
}

#[test]
fn a_worker_that_dies_gives_one_error_and_comes_back() {
    let mut workers = [Worker::start(), Worker::start()];
    let (model, local) = (spread(&workers, 20), local());
    let prompt = &prompts()[1];
    let mut here = sequence(&local, EngineParams::default());
    start(&mut here, prompt);
    let expected = steps(&mut here, 18);
    let mut there = sequence(&model, EngineParams::default());
    start(&mut there, prompt);
    let mut found = steps(&mut there, 6);
    for dying in [0, 1] {
        workers[dying].kill();
        let tokens = there.tokens().len();
        for attempt in 0..2 {
            let error = there.step(&mut greedy()).expect_err("a worker is gone").to_string();
            let address = workers[dying].address();
            assert!(error.contains(&address) && error.contains("hint:"), "attempt {attempt}: {error}");
        }
        assert_eq!(there.tokens().len(), tokens, "nothing was added");
        workers[dying].restart();
        found.extend(steps(&mut there, 6));
    }
    assert_eq!(found, expected);
}

/// Workers of ggml's serve one connection at a time.
#[test]
fn two_models_share_the_connections() {
    let mut workers = [Worker::start(), Worker::start()];
    let prompt = &prompts()[2];
    let models = [13, 20].map(|border| spread(&workers, border));
    let mut sequences = models.each_ref().map(|model| sequence(model, EngineParams::default()));
    sequences.iter_mut().for_each(|sequence| start(sequence, prompt));
    let mut found = [Vec::new(), Vec::new()];
    for turn in 0..4 {
        for (sequence, found) in sequences.iter_mut().zip(&mut found) {
            found.extend(steps(sequence, 3));
        }
        if turn == 1 {
            workers[0].kill();
            assert!(sequences[0].step(&mut greedy()).is_err());
            workers[0].restart(); // which both have to notice
        }
    }
    assert_eq!(found[0], found[1]);
    assert_eq!(found[0].len(), 12);
}

#[test]
fn commands_run_on_workers_and_refuse_what_is_none() {
    let workers = [Worker::start(), Worker::start()];
    let rpc = format!("{},{}", workers[0].address(), workers[1].address());
    let model = demo_model();
    let run = |more: &[&str]| {
        let all = [&["run", "-m", &model, "-t", "1", "--raw", "-p", "The capital of France is", "-n", "12"], more];
        let output = curtail(&all.concat()).args(["--temp", "0"]).output().expect("it starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, expected, _) = run(&[]);
    assert_eq!(code, Some(0));
    let (code, found, told) = run(&["--rpc", &rpc, "-ngl", "20", "-ts", "3,1"]);
    assert_eq!((code, &found), (Some(0), &expected), "{told}");
    assert!(told.contains("layers 0 to 9 on CPU, layers 10 to 24 on RPC0"), "{told}");

    let doctor = curtail(&["doctor", "-m", &model, "-t", "1", "-c", "256", "--json", "--rpc", &rpc]).output();
    let report: serde_json::Value = serde_json::from_slice(&doctor.expect("it starts").stdout).expect("JSON");
    assert_eq!(report["devices"].as_array().expect("devices").len(), 3);
    assert_eq!(report["model"]["layers"][1]["device"], "RPC1");
    assert!(report["model"]["tokens_per_second"].as_f64().is_some_and(|speed| speed > 0.0));

    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = free.local_addr().expect("an address").to_string();
    let (code, _, told) = run(&["--rpc", &silent]);
    assert!(code == Some(1) && told.contains("does not answer"), "{told}");
    drop(free);
    let (code, _, told) = run(&["--rpc", &silent]);
    assert!(code == Some(1) && told.contains(&silent) && told.contains("hint:"), "{told}");
    assert!(run(&["-ngl", "3"]).0 == Some(2) || cfg!(feature = "cuda"), "no device but the CPU");
}

#[test]
fn a_server_listens_beyond_this_machine_only_if_told_so() {
    let refused = |command: &mut Command| command.output().expect("it starts");
    let output = refused(&mut curtail(&["rpc-server", "--host", "0.0.0.0"]));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && told.contains("--expose"), "{told}");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let output = refused(&mut curtail(&["rpc-server", "-p", &port]));
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
}
