//! What the commands take that deal with models of the hub and the cache.

use clap::Args;

/// `pull`.
#[derive(Args, Debug)]
#[command(after_help = "\
ORG/REPO takes Q4_K_M where there is one, else Q4_0 and so on; ORG/REPO:QUANT the file with QUANT in its name; \
ORG/REPO/FILE.gguf that file. All parts of a split model come. The path goes to stdout, progress to stderr.

HF_TOKEN (or `hf auth login`) opens private and gated repositories, HF_ENDPOINT names another hub, HF_HOME and \
HF_HUB_CACHE another cache; with HF_HUB_OFFLINE=1 the cache alone is looked into. -m of the other commands takes the same \
names, and pulls what is not there.")]
pub struct PullArgs {
    /// The model: ORG/REPO, ORG/REPO:QUANT or ORG/REPO/FILE.gguf
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// Branch, tag or commit
    #[arg(long, value_name = "REV", default_value = "main")]
    pub revision: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `list`.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// List the architectures that run instead: name in GGUF, models, checkpoints that are converted, parts
    #[arg(long)]
    pub supported: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `rm`.
#[derive(Args, Debug)]
#[command(after_help = "\
Files in models/ are not touched. ORG/REPO alone is enough where one model of the repository is there, or only what an \
interrupted download has left.")]
pub struct RmArgs {
    /// The models, as `list` names them
    #[arg(value_name = "MODEL", required = true)]
    pub models: Vec<String>,
    /// Do not ask
    #[arg(short, long, short_alias = 'f', visible_alias = "force")]
    pub yes: bool,
}
