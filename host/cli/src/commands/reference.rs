//! `fumehood reference DIR`: the reference pages that are made of the code, so that they can't say anything else.

mod configuration;
mod wit;

use crate::{
    args::{Cli, Reference},
    config::InstallLimits,
    out::Out,
};
use anyhow::Context as _;
use clap::CommandFactory as _;
use fumehood_agent::catalog::DRAIN;
use fumehood_core::{
    event::{EventBody, Life},
    metric::{self, MetricKind},
};
use fumehood_policy::limits::Limits;
use fumehood_server::ProblemCode;
use std::fmt::Write as _;

/// Writes the pages, or says which differ. Whether all is as it should be.
pub(crate) fn reference(out: Out, args: &Reference) -> anyhow::Result<bool> {
    let openapi = serde_json::to_string_pretty(&fumehood_server::openapi())?;
    let pages = [
        ("events.md", events()),
        ("errors.md", errors()),
        ("limits.md", limits()),
        ("cli.md", command_line()),
        ("metrics.md", metrics()),
        ("configuration.md", configuration::page()?),
        ("wit.md", wit::page()),
        ("openapi.json", openapi + "\n"),
    ];
    let mut good = true;
    for (name, text) in pages {
        let file = args.dir.join(name);
        if args.check {
            if std::fs::read_to_string(&file).ok().as_deref() != Some(&*text) {
                good = false;
                out.line(format_args!(
                    "{} is not what the code says; `cargo xtask doc` writes it anew",
                    file.display()
                ));
            }
        } else {
            std::fs::create_dir_all(&args.dir).with_context(|| format!("cannot make {}", args.dir.display()))?;
            std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    Ok(good)
}

fn events() -> String {
    let mut page = String::from(
        "# Events\n\nMade of the code; don't edit.\n\nA *recorded* event is in the journal and has a `seq`, gapless per session from 1. \
         A *live* event is only shown to whoever listens, and has no `seq`.\n",
    );
    for kind in EventBody::CATALOGUE {
        let life = match kind.life {
            Life::Recorded => "recorded",
            Life::Live => "live",
        };
        let _ = write!(page, "\n## `{}`\n\n{} ({life})\n", kind.name, kind.doc.trim());
        if !kind.fields.is_empty() {
            page.push_str("\n| field | meaning |\n|---|---|\n");
        }
        for (field, doc) in kind.fields {
            let _ = writeln!(page, "| `{field}` | {} |", doc.trim().replace('|', "\\|"));
        }
    }
    page
}

fn errors() -> String {
    let mut page = String::from(
        "# Problem codes\n\nMade of the code; don't edit.\n\nEvery refusal of the HTTP API is an `application/problem+json` document (RFC 9457) with one of these codes.\n\n\
         | code | status | meaning |\n|---|---|---|\n",
    );
    for kind in ProblemCode::CATALOGUE {
        let _ = writeln!(
            page,
            "| `{}` | {} | {} |",
            kind.code,
            kind.status,
            kind.doc.trim().replace('|', "\\|")
        );
    }
    page
}

fn limits() -> String {
    let mut page = String::from(
        "# Limits\n\nMade of the code; don't edit.\n\n## Of a call\n\n\
         A call gets the smallest of what its component's manifest asks for (`[limits]` in `tool.toml`), what the grant allows \
         (`[limits]`, too) and the host's ceiling; where neither manifest nor grant says anything, the default. The operator sets \
         both in the configuration, with the same keys:\n\n\
         ```toml\n[limits.default]\ncpu = \"1s\"\n[limits.ceiling]\nmemory = \"256MiB\"\n```\n\n\
         A default above its ceiling is refused at start. A manifest or grant that asks for more than a ceiling is taken, \
         told so, and narrowed. A call that ends at a limit is a result that the model sees, with the limit and its key in \
         words; the turn goes on, and nobody else's call is touched.\n",
    );
    page.push_str("\n| key | what | default | ceiling | beyond it |\n|---|---|---|---|---|\n");
    let all = Limits::catalogue();
    for limit in &all {
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {} | {} |",
            limit.key, limit.what, limit.default, limit.ceiling, limit.beyond
        );
    }
    page.push_str("\nWhy they are what they are:\n\n");
    for limit in &all {
        let _ = writeln!(page, "- `{}`: {}", limit.key, limit.why);
    }
    page.push_str(
        "\n## Of installing\n\nIn the configuration, under `[limits.install]`; they have no ceiling, since only the operator sets them.\n\n\
         | key | what | default | beyond it | why |\n|---|---|---|---|---|\n",
    );
    for (key, what, default, beyond, why) in InstallLimits::catalogue() {
        let _ = writeln!(page, "| `{key}` | {what} | {default} | {beyond} | {why} |");
    }
    let _ = write!(
        page,
        "\n## Of removing and replacing\n\nIn the configuration, under `[limits]`.\n\n\
         | key | what | default | beyond it | why |\n|---|---|---|---|---|\n\
         | `drain` | How long calls may go on whose component is removed or replaced. | {DRAIN} | the call is interrupted; the model \
         sees why | As long as a call has that asks for no time. `0s` interrupts at once. |\n"
    );
    page
}

fn metrics() -> String {
    let mut page = String::from(
        "# Metrics\n\nMade of the code; don't edit.\n\n`GET /metrics` has them in the text format of Prometheus. [Observability](../operators/observability.md) says who may read \
         them and what to do with them.\n\n| metric | kind | labels | meaning |\n|---|---|---|---|\n",
    );
    for metric in metric::CATALOGUE {
        let labels = metric
            .labels
            .iter()
            .map(|label| format!("`{label}`"))
            .collect::<Vec<_>>()
            .join(", ");
        let kind = metric.kind.as_str();
        let _ = writeln!(
            page,
            "| `{}` | {kind} | {labels} | {} |",
            metric.name,
            metric.doc.trim().replace('|', "\\|")
        );
    }
    page.push_str("\n## Buckets\n\nThe upper bounds of the histograms' buckets; each has one more for what is larger.\n\n| metric | bounds |\n|---|---|\n");
    for metric in metric::CATALOGUE {
        if let MetricKind::Histogram(buckets) = metric.kind {
            let bounds = buckets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let _ = writeln!(page, "| `{}` | {bounds} |", metric.name);
        }
    }
    page
}

fn command_line() -> String {
    let mut page = String::from("# Command line\n\nMade of the code; don't edit.\n");
    // Fixed, whatever terminal this runs in.
    let mut root = Cli::command().term_width(100).color(clap::ColorChoice::Never);
    root.build();
    describe(&mut root, &mut page);
    page
}

fn describe(command: &mut clap::Command, page: &mut String) {
    let help = command.render_long_help().to_string();
    let name = command.get_bin_name().unwrap_or(command.get_name()).to_owned();
    let _ = write!(page, "\n## `{name}`\n\n```text\n");
    for line in help.lines() {
        page.push_str(line.trim_end());
        page.push('\n');
    }
    page.push_str("```\n");
    for sub in command.get_subcommands_mut().filter(|sub| !sub.is_hide_set()) {
        describe(sub, page);
    }
}
