//! `fumehood doctor --store`: everything that is kept against everything it should be, and mending what can be mended safely.

use super::{examined, sealed};
use crate::{
    args::Doctor,
    config::Loaded,
    out::{Out, Style, count},
};
use anyhow::{Context as _, bail};
use fumehood_store::{
    OpenError, Schema, StoreUrl,
    examine::{Care, Depth, Examination, FilesLooked, Finding, RepairError, repair},
};
use serde_json::{Value, json};

/// Whether nothing is damaged, after mending where that was asked for.
pub(crate) async fn store(out: Out, loaded: &Loaded, args: &Doctor) -> anyhow::Result<bool> {
    let data_dir = &loaded.config.data_dir;
    if !data_dir.exists() {
        bail!("{} does not exist: there is nothing to look at", data_dir.display());
    }
    let (mended, found) = if args.repair && !args.dry_run {
        let url: StoreUrl = loaded.config.store_url().parse()?;
        match repair(data_dir, &url, loaded.config.quotas()).await {
            Err(RepairError::Open(error @ OpenError::InUse { .. })) => {
                return Err(error).context("what is kept is mended while no host serves from this data directory");
            }
            done => done?,
        }
    } else {
        (Vec::new(), examined(loaded, Depth::Everything).await?)
    };
    tell(out, &mended, &found, args.dry_run);
    Ok(!found.findings.iter().any(Finding::is_damage))
}

fn tell(out: Out, mended: &[Finding], found: &Examination, dry_run: bool) {
    let value = json!({
        "whole": !found.findings.iter().any(Finding::is_damage),
        "schema": schema_value(found.schema),
        "files_looked_at": found.files == FilesLooked::Yes,
        "repaired": mended.iter().map(value).collect::<Vec<_>>(),
        "findings": found.findings.iter().map(value).collect::<Vec<_>>(),
    });
    out.either(&value, |_| {
        for finding in mended {
            let mark = out.style(Style::Good, "✓");
            out.line(format_args!("{mark} mended: {}", finding.problem));
        }
        for finding in &found.findings {
            let mark = if finding.is_damage() {
                out.style(Style::Bad, "✗")
            } else {
                out.style(Style::Name, "·")
            };
            out.line(format_args!("{mark} {}", finding.problem));
            out.line(format_args!("  {}", care(&finding.care, dry_run)));
        }
        match found.schema {
            None => out.line("there is no database yet; the first start makes it"),
            Some(Schema::Earlier { found, known }) => out.line(format_args!(
                "the database is of an earlier version (its schema is {found}, this program has {known}): only its structure was looked \
                 at; the next start, or `--repair`, brings it up to date"
            )),
            Some(Schema::Current) => {}
        }
        if found.files == FilesLooked::HostRuns {
            out.line("a host serves from this data directory: its files were not looked at, stop it to have them looked at");
        }
        summary(out, found);
    });
}

fn summary(out: Out, found: &Examination) {
    let damaged = found.findings.iter().filter(|finding| finding.is_damage()).count();
    let left = found.findings.len() - damaged;
    if damaged > 0 {
        let problems = count(damaged as u64, "problem");
        return out.line(format_args!(
            "{problems}, and {} of no harm",
            count(left as u64, "leftover")
        ));
    }
    let also = match left {
        0 => String::new(),
        left => format!(", with {} of no harm", count(left as u64, "leftover")),
    };
    out.line(format_args!("whole{also}; {}", sealed(&found.secrets)));
}

fn care(care: &Care, dry_run: bool) -> String {
    let would = if dry_run {
        "would be mended"
    } else {
        "`--repair` mends it"
    };
    match care {
        Care::Operator(what) => format!("to do: {what}"),
        Care::Repair(what) | Care::Tidy(what) => format!("{would}: {what}"),
        Care::NextStart => "the next start sees to it".into(),
        Care::Nobody => "it stays there".into(),
    }
}

fn value(finding: &Finding) -> Value {
    let (care, what) = match &finding.care {
        Care::Operator(what) => ("operator", Some(*what)),
        Care::Repair(what) | Care::Tidy(what) => ("repair", Some(what.as_str())),
        Care::NextStart => ("next_start", None),
        Care::Nobody => ("nobody", None),
    };
    json!({
        "about": finding.problem.about(), "detail": finding.problem.to_string(), "damage": finding.is_damage(),
        "care": care, "to_do": what,
    })
}

fn schema_value(schema: Option<Schema>) -> &'static str {
    match schema {
        None => "none",
        Some(Schema::Current) => "current",
        Some(Schema::Earlier { .. }) => "earlier",
    }
}
