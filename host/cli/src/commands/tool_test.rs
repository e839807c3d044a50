//! `fumehood tool test [DIR]`: the tests of a tool's folder, on the real component behind an outside that is written down.

use crate::{
    args::ToolTest,
    config::Loaded,
    fault::OrFault as _,
    kit::{Language, Project, build},
    out::{Out, Style},
    trial::{Bent, Finding, Located, Outcome, Snapshots, Trial, Verdict, find, has_tests},
};
use anyhow::{Context as _, bail};
use fumehood_policy::manifest::Manifest;
use serde::Serialize;
use serde_json::json;
use std::path::{Path, PathBuf};

/// A file of tests, and what came of each.
#[derive(Debug, Serialize)]
struct Ran {
    file: String,
    tests: Vec<Test>,
}

#[derive(Debug, Serialize)]
struct Test {
    #[serde(flatten)]
    outcome: Outcome,
    /// The same with an outside that fails, where that was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failing_outside: Vec<Bent>,
}

impl Test {
    fn passed(&self) -> bool {
        self.outcome.verdict == Verdict::Passed
            && self.failing_outside.iter().all(|bent| bent.verdict == Verdict::Passed)
    }
}

/// Builds the component, where the folder has its code and no other file is named, and runs its tests. `true` when all passed.
pub(crate) async fn test(out: Out, loaded: &Loaded, args: &ToolTest) -> anyhow::Result<bool> {
    let files = find(&args.dir).or_fault()?;
    let component = match &args.component {
        Some(file) => file.clone(),
        None if Language::of(&args.dir).is_some() => build(&Project::find(&args.dir)?).await?.file,
        None => own_component(&args.dir).or_fault()?,
    };
    run(out, loaded, args, &files, &component).await
}

/// Runs the tests of a folder on what was built of it. `true` when all passed, and when there are none.
pub(crate) async fn of_built(out: Out, loaded: &Loaded, dir: &Path, component: &Path) -> anyhow::Result<bool> {
    if !has_tests(dir) {
        return Ok(true);
    }
    let args = ToolTest {
        dir: dir.to_owned(),
        component: None,
        name: None,
        update: false,
        failing_outside: false,
    };
    run(out, loaded, &args, &find(dir).or_fault()?, component).await
}

async fn run(out: Out, loaded: &Loaded, args: &ToolTest, files: &[Located], component: &Path) -> anyhow::Result<bool> {
    let trial = Trial::start(loaded, component).await?;
    let how = if args.update {
        Snapshots::Update
    } else {
        Snapshots::Compare
    };
    let mut ran = Vec::new();
    for located in files {
        let mut tests = Vec::new();
        let chosen = located
            .file
            .tests
            .iter()
            .filter(|case| args.name.as_ref().is_none_or(|part| case.name.contains(part)));
        for case in chosen {
            let outcome = trial.run(located, case, how).await?;
            let failing_outside = if args.failing_outside && !case.exchanges.is_empty() {
                trial.bend(located, case).await?
            } else {
                Vec::new()
            };
            let test = Test {
                outcome,
                failing_outside,
            };
            if !out.json {
                show(out, &test);
            }
            tests.push(test);
        }
        ran.push(Ran {
            file: located.path.display().to_string(),
            tests,
        });
    }
    trial.stop().await;
    conclude(out, args, &ran)
}

/// The component that the manifest of a folder without code is about.
fn own_component(dir: &Path) -> anyhow::Result<PathBuf> {
    let path = dir.join("tool.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let manifest = Manifest::parse_toml(&text).with_context(|| format!("{} is not a manifest", path.display()))?;
    let component = dir.join(format!("{}.wasm", manifest.name));
    if !component.is_file() {
        bail!(
            "there is no {}: build it there, or name a component with --component",
            component.display()
        );
    }
    Ok(component)
}

fn conclude(out: Out, args: &ToolTest, ran: &[Ran]) -> anyhow::Result<bool> {
    let all = || ran.iter().flat_map(|file| &file.tests);
    let (run, failed) = (all().count(), all().filter(|test| !test.passed()).count());
    if run == 0 {
        let part = args.name.as_deref().unwrap_or_default();
        bail!("no test has {part:?} in its name");
    }
    let value = json!({"files": ran, "passed": run - failed, "failed": failed});
    out.either(&value, |_| {
        let line = format!("{run} tests: {} passed, {failed} failed", run - failed);
        out.line(format_args!(
            "\n{}",
            out.style(if failed == 0 { Style::Good } else { Style::Bad }, line)
        ));
    });
    Ok(failed == 0)
}

fn show(out: Out, test: &Test) {
    let outcome = &test.outcome;
    let requests = match outcome.metering.http_requests {
        1 => "1 request".to_owned(),
        several => format!("{several} requests"),
    };
    let used = format!("{} ms, {requests}", outcome.metering.duration_ms);
    out.line(format_args!(
        "{} {}  {}",
        mark(out, outcome.verdict),
        outcome.name,
        out.style(Style::Dim, used)
    ));
    for finding in &outcome.findings {
        difference(out, finding);
    }
    if !outcome.findings.is_empty() {
        for refused in &outcome.refused {
            out.line(format_args!("    refused {refused}"));
        }
    }
    for bent in &test.failing_outside {
        out.line(format_args!(
            "  {} {}  {}",
            mark(out, bent.verdict),
            bent.how,
            out.style(Style::Dim, first_line(&bent.came))
        ));
    }
}

fn mark(out: Out, verdict: Verdict) -> String {
    match verdict {
        Verdict::Passed => out.style(Style::Good, "✓"),
        Verdict::Failed => out.style(Style::Bad, "✗"),
    }
}

fn difference(out: Out, finding: &Finding) {
    out.line(format_args!("    {}", out.style(Style::Bold, &finding.about)));
    for (label, text) in [("expected", &finding.expected), ("found   ", &finding.found)] {
        for (line, shown) in text.lines().enumerate() {
            let label = if line == 0 { label } else { "        " };
            out.line(format_args!("      {label}  {shown}"));
        }
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
