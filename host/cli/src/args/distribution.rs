//! `fumehood tool add|lock|update|publish|key|sign`

use crate::{
    distribution::{PlainHttp, Reference, Source},
    fault::{OrFault as _, of_usage},
};
use clap::Args;
use fumehood_core::name::ComponentName;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct ToolAdd {
    /// A .wasm file, https://…/x.wasm or oci://registry/repository:tag; the latter two perhaps with @sha256:… behind, for exactly that.
    #[arg(required_unless_present = "locked")]
    pub(crate) source: Option<Source>,
    /// What it may do, as a file.
    #[arg(long, value_name = "FILE", conflicts_with = "yes", requires = "source")]
    pub(crate) grant: Option<PathBuf>,
    /// Grant all that it asks for.
    #[arg(long)]
    pub(crate) yes: bool,
    /// Take it also if it is older than what fumehood.lock has under its name or from somewhere else, or if its place has something else
    /// now than when it was locked.
    #[arg(long)]
    pub(crate) replace: bool,
    /// Exactly what fumehood.lock has for it, without a network where it was fetched before; without a source, all that is there.
    #[arg(long, conflicts_with = "replace")]
    pub(crate) locked: bool,
    #[command(flatten)]
    pub(crate) way: Way,
}

/// How what is elsewhere is reached.
#[derive(Debug, Args)]
pub(crate) struct Way {
    /// Also without TLS, to this server: its host, and its port if it has one. Without a name, to the one of the command's own URL. May be
    /// repeated. To this machine that needs no asking.
    #[arg(long, value_name = "HOST[:PORT]", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    plain_http: Vec<String>,
}

impl Way {
    /// Where requests may go without TLS; `own` is the server of the command's own URL.
    pub(crate) fn plain(&self, own: Option<&str>) -> anyhow::Result<PlainHttp> {
        self.plain_http.iter().try_fold(PlainHttp::default(), |plain, server| {
            let server = match (&**server, own) {
                ("", Some(own)) => own,
                ("", None) => {
                    return Err(of_usage(
                        "this command names no server itself, so say for which one you mean it: --plain-http=HOST"
                            .to_owned(),
                    ));
                }
                (server, _) => server,
            };
            plain.to(server).or_fault()
        })
    }
}

#[derive(Debug, Args)]
pub(crate) struct ToolLock {
    /// The component, by the name of its section; without it, all that the configuration has from a registry or a web server.
    pub(crate) name: Option<ComponentName>,
    /// Pin what is there now, also if it is older than what is locked, or is something else, from somewhere else, or not signed any more.
    #[arg(long)]
    pub(crate) replace: bool,
    #[command(flatten)]
    pub(crate) way: Way,
}

#[derive(Debug, Args)]
#[command(allow_missing_positional = true)]
pub(crate) struct ToolPublish {
    /// A component that was built, or a tool's folder that has one.
    #[arg(default_value = ".", value_name = "DIR|FILE")]
    pub(crate) component: PathBuf,
    /// Where: oci://registry/repository, with a tag behind unless it is to be the component's version.
    pub(crate) to: Reference,
    /// Sign it with this private key, made by `fumehood tool key` or `cosign generate-key-pair`.
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// Put it in the place of another component that is published as the same version.
    #[arg(long)]
    pub(crate) replace: bool,
    #[command(flatten)]
    pub(crate) way: Way,
}

#[derive(Debug, Args)]
pub(crate) struct ToolKey {
    /// What the two files are called, before `.key` and `.pub`.
    #[arg(default_value = "tools", value_name = "NAME")]
    pub(crate) name: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ToolSign {
    /// The file that is signed; the signature is written beside it, with `.sig` behind its name.
    pub(crate) file: PathBuf,
    /// The private key.
    #[arg(long, value_name = "FILE")]
    pub(crate) key: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ToolUpdate {
    /// The component; without it, all that are locked from a registry or a web server.
    pub(crate) name: Option<ComponentName>,
    /// Don't ask. Refused for a version that asks for more.
    #[arg(long)]
    pub(crate) yes: bool,
    /// With --yes: also a version that asks for more. What was granted in part stays so; what was granted all that it asked for is granted all.
    #[arg(long, requires = "yes")]
    pub(crate) accept_wider: bool,
    #[command(flatten)]
    pub(crate) way: Way,
}
