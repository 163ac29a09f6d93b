//! How others spell it: llama.cpp, Ollama, and people in a hurry.

use std::time::Duration;

use clap::CommandFactory;
use curtail::cli::Cli;

use super::Place;
use crate::common::watched::{Ended, run, run_within};

fn ended(place: &Place, line: &str) -> Ended {
    run_within(&mut place.command(line), b"", Duration::from_secs(20))
}

#[test]
fn spellings_with_a_meaning_here_have_it() {
    let place = Place::new();
    let plain = ended(&place, "run MODEL --raw -p the -n 4 --temp 0").with(0, &[]).stdout;
    for line in [
        "run MODEL -no-cnv -p the -n 4 --temp 0",
        "run MODEL --no-conversation -p the --n-predict 4 -temp 0",
        "run MODEL --raw -p the --predict 4 --temp=0 -fa off -ctk f16",
        "run MODEL --raw -p the --n_predict=4 --temp 0 -ngl 0",
        "run -m m.gguf -threads 1 --raw -prompt the -n4 -temp 0",
    ] {
        assert_eq!(ended(&place, line).with(0, &[]).stdout, plain, "{line}");
    }
    assert_eq!(ended(&place, "tokenize -m m.gguf -p the -ids").with(0, &[]).stdout.trim(), "[258]");
    ended(&place, "show m.gguf").with(0, &[]);
    ended(&place, "ls").with(0, &[]);
    // A name of the hub, whatever lies here.
    std::fs::create_dir(place.path("o")).expect("a folder");
    for line in ["run -hf o/r -p hi", "run --hf-repo=o/r:Q4_0 -p hi", "chat -hfr o/r"] {
        let mut command = place.command(line);
        command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", place.path("home"));
        run(&mut command, b"").with(1, &["is not in the cache"]);
    }
}

#[test]
fn every_other_spelling_is_refused_with_a_hint() {
    let place = Place::new();
    // With what the hint must name.
    for (command, flags, hint) in [
        ("run", "-cnv -i -if -ins -mli --conversation --interactive -cml", "curtail chat"),
        ("run", "-st --single-turn", "curtail run"),
        ("chat", "-no-cnv --no-conversation", "--raw"),
        ("quantize", "-hf --hf-repo", "-m ORG/REPO"),
        ("run", "-hff --hf-file", "-m ORG/REPO"),
        ("run", "-hft --hf-token", "HF_TOKEN"),
        ("run", "-mu --model-url -dr", "curtail pull"),
        ("run", "-ub --ubatch-size", "-b"),
        ("run", "-tb --threads-batch -C -Cr -Crb --cpu-mask --poll --prio", "-t"),
        ("run", "-sysf --system-prompt-file", "--system"),
        ("run", "-bf --binary-file", "-f"),
        ("run", "-sm --split-mode -mg --main-gpu", "--device"),
        ("run", "-ot -cmoe -ncmoe -nkvo -fit -fitt -fitc --n-cpu-moe", "--gpu-layers"),
        (
            "run",
            "-md -hfd -ngld -td -devd -cd -ctkd -ctvd -lcs -lcd --draft-min --draft-p-min --model-draft",
            "--draft",
        ),
        ("run", "-l --grammar --grammar-file -j --json-schema -jf --ignore-eos --format", "--temp"),
        (
            "run",
            "--mirostat --typical --xtc-probability --dry-multiplier --dynatemp-range --top-nsigma --presence-penalty --samplers",
            "--min-p",
        ),
        ("run", "-kvu -dt --defrag-thold --swa-full", "-c"),
        ("run", "--rope-scaling --rope-freq-base --yarn-ext-factor", "--override-kv"),
        ("run", "-e --escape --no-escape", "$'"),
        ("run", "--verbose-prompt", "tokenize"),
        ("run", "-co --color", "NO_COLOR"),
        ("run", "-v --verbose -lv --log-disable --simple-io --no-display-prompt --no-perf --nowordwrap", "stderr"),
        ("run", "--no-mmap --mlock --mmap -dio --numa -nr", "leave it out"),
        ("run", "--jinja --lora --in-prefix --keep --mmproj --think", "hint: "),
        ("perplexity", "--hellaswag --winogrande --multiple-choice", "curtail eval"),
        ("perplexity", "--ppl-stride --all-logits", "curtail perplexity"),
        ("imatrix", "-ofreq --output-frequency", "--save-frequency"),
        ("bench", "-mmp -embd -oe --delay -nopo -ncmoe", "hint: "),
        ("tokenize", "--show-count --stdin", "curtail tokenize"),
        ("run", "--host --port -np -cb -to --api-key --keepalive --no-webui", "there is no server"),
    ] {
        for flag in flags.split(' ') {
            ended(&place, &format!("{command} {flag}")).with(2, &[flag, "\nhint: ", hint]);
        }
    }
}

#[test]
fn words_behind_one_dash_are_never_several_flags() {
    let place = Place::new();
    let mut root = Cli::command();
    root.build();
    for command in root.get_subcommands().filter(|command| command.get_name() != "help") {
        let name = command.get_name();
        for word in ["-hff", "-hello", "-help-me", "-no-such", "-Vx", "-mfoo", "-nkv", "-cfoo", "-pfoo", "-tb"] {
            let found = ended(&place, &format!("{name} {word}")).with(2, &[word, "\nhint: "]);
            assert_eq!(found.stdout, "", "{name} {word}");
        }
    }
    // Values may stand close to their flags.
    ended(&place, "run -mm.gguf -t1 -c64 -n1 -phi! --temp 0").with(0, &[]);
    // Texts may look like anything.
    ended(&place, "run MODEL -n 1 --raw -p -hf -r -no-cnv").with(0, &[]);
    ended(&place, "run MODEL -n 1 --raw --prompt=-hf").with(0, &[]);
}

#[test]
fn commands_of_others_and_none_at_all_have_hints() {
    let place = Place::new();
    for (line, hint) in [
        ("serve", "there is no server"),
        ("llama-server", "there is no server"),
        ("llama-cli -m x", "curtail chat"),
        ("generate", "curtail run"),
        ("create x", "curtail convert"),
        ("detokenize 1", "tokenize --decode"),
        ("push x", "curtail list"),
        ("m.gguf", "a command comes first"),
        ("-m m.gguf -p hi", "a command comes first"),
        ("-hf o/r", "a command comes first"),
        ("run m.gguf", "-m MODEL names the model, -p TEXT gives the text"),
        ("run MODEL what is up", "-p TEXT gives the text, in quotes"),
        ("chat m.gguf", "-m MODEL names the model"),
        ("bench m.gguf", "-m MODEL names the model"),
        ("tokenize hello", "hint: "),
    ] {
        ended(&place, line).with(2, &["error: ", "hint: ", hint]);
    }
}

#[test]
fn help_is_a_command_too() {
    let place = Place::new();
    let all = ended(&place, "help").with(0, &[]).stdout;
    assert!(all.contains("train-exit") && all.contains("tokenize"), "{all}");
    for command in ["run", "tokenize", "layers", "layers prune"] {
        let [a, b] = [format!("help {command}"), format!("{command} --help")]
            .map(|line| ended(&place, &line).with(0, &[]).stdout);
        assert_eq!(a, b);
    }
    ended(&place, "help nonsense").with(2, &["nonsense"]);
}

#[test]
fn a_commands_own_options_come_first_and_devices_are_told_apart() {
    let mut root = Cli::command();
    root.build();
    let nested = root.get_subcommands().flat_map(|command| command.get_subcommands());
    for command in root.get_subcommands().chain(nested) {
        let own = ["gpu_layers", "device", "tensor_split", "rpc", "token_file", "list_devices"];
        let of_devices = command.get_arguments().filter(|arg| arg.get_help_heading() == Some("Device options"));
        let strangers: Vec<_> = of_devices.filter(|arg| !own.contains(&arg.get_id().as_str())).collect();
        assert!(strangers.is_empty(), "{}: {strangers:?}", command.get_name());
    }
    let place = Place::new();
    for (line, own) in [
        ("run --help", &["--prompt", "--file", "--batch", "--raw", "--depth-report"][..]),
        ("bench --help", &["--n-depth", "--layers", "--no-warmup", "--output", "--repetitions"]),
        ("perplexity --help", &["--file", "--kl-divergence-base", "--json", "--report"]),
        ("imatrix --help", &["--output", "--in-file", "--chunk"]),
        ("train-exit --help", &["--task", "--output", "--rows"]),
        ("eval --help", &["--task", "--exit", "--report"]),
        ("logits --help", &["--batch"]),
        ("doctor --help", &["--threads", "--ctx-size", "--json"]),
        ("layers prune --help", &["--method", "--output", "--write"]),
    ] {
        let help = ended(&place, line).with(0, &[]).stdout;
        let (_, options) = help.split_once("\nOptions:\n").expect("options of its own");
        let first = options.split("\n\n").next().expect("a part");
        for flag in own {
            assert!(
                first.contains(&format!("{flag} ")) || first.contains(&format!("{flag}\n")),
                "{line}: {flag} in {first}"
            );
        }
    }
}

#[test]
fn ids_become_text_again() {
    let place = Place::new();
    for text in ["the a\u{fc} \u{1f600}\n  x", "<|im_start|>user\nhi<|im_end|>"] {
        std::fs::write(place.path("x.txt"), format!("{text}\n")).expect("written");
        let ids = ended(&place, "tokenize -m m.gguf -f x.txt --json").with(0, &[]).stdout;
        let back = run(&mut place.command("tokenize -m m.gguf --decode"), ids.as_bytes()).with(0, &[]);
        assert_eq!(back.stdout, text);
        let words: String = ids.replace(['[', ']', ','], " ");
        assert_eq!(ended(&place, &format!("tokenize -m m.gguf -d {words}")).with(0, &[]).stdout, text);
    }
    assert_eq!(ended(&place, "tokenize -m m.gguf -d 258,258 --json").with(0, &[]).stdout, "\"thethe\"\n");
    let begun = "tokenize -m m.gguf -d 259 258";
    assert_eq!(ended(&place, begun).with(0, &[]).stdout, "<|endoftext|>the");
    assert_eq!(ended(&place, &format!("{begun} --no-bos")).with(0, &[]).stdout, "the");
    ended(&place, "tokenize -m m.gguf -d 262").with(1, &["ids[0]: expected a token id below 262, found 262"]);
    ended(&place, "tokenize -m m.gguf -d the").with(2, &["ids: expected whole numbers", "found `the`"]);
}

#[test]
fn the_environments_model_stands_back() {
    let place = Place::new();
    for line in ["inspect m.gguf", "inspect -m m.gguf", "tokenize -m m.gguf -p hi"] {
        run(place.command(line).env("CURTAIL_MODEL", "none.gguf"), b"").with(0, &[]);
    }
    run(place.command("inspect").env("CURTAIL_MODEL", "m.gguf"), b"").with(0, &[]);
    run(place.command("inspect").env("CURTAIL_MODEL", "none.gguf"), b"").with(1, &["none.gguf"]);
    run(place.command("inspect -m m.gguf m.gguf").env("CURTAIL_MODEL", "m.gguf"), b"")
        .with(2, &["cannot be used with"]);
}

#[test]
fn make_is_named_where_there_is_one() {
    let place = Place::new();
    let found = run(&mut place.command("tokenize -p hi"), b"").with(2, &["`curtail pull ORG/REPO` fetches one"]);
    assert!(!found.stderr.contains("make"), "{found:?}");
    std::fs::write(place.path("Makefile"), "model:\n").expect("written");
    let found = run(&mut place.command("tokenize -p hi"), b"").with(2, &[]);
    assert!(!found.stderr.contains("make"), "somebody else's: {found:?}");
    std::fs::create_dir(place.path("models")).expect("a folder");
    std::fs::write(place.path("models/fetch-demo-model.py"), "").expect("written");
    run(&mut place.command("tokenize -p hi"), b"").with(2, &["`make model` fetches one"]);
}
