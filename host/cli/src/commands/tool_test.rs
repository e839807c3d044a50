//! `fumehood tool test [DIR]`: the tests of a tool's folder, on the real component behind an outside that is written down.

use crate::{
    args::ToolTest,
    config::Loaded,
    fault::{OrFault as _, of_usage},
    kit::{Language, Project, build, named_component},
    out::{Out, Style, count, printable, tell},
    trial::{
        Answers, Bent, Case, Finding, Located, Outcome, Recorded, Snapshots, Trial, Verdict, can_be_written, find,
        has_tests, may_be_recorded, write_recorded,
    },
};
use anyhow::{Context as _, bail};
use fumehood_core::name::SecretName;
use serde::Serialize;
use serde_json::json;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

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
    /// How many exchanges were recorded, where some were to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    recorded: Option<usize>,
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
        None => finished(&args.dir)?,
    };
    Box::pin(run(out, loaded, args, &files, &component)).await
}

/// The component of a folder without code.
fn finished(dir: &Path) -> anyhow::Result<PathBuf> {
    let component = named_component(dir)?;
    match component.is_file() {
        true => Ok(component),
        false => Err(of_usage(format!(
            "there is no {}: build it there, or name a component with --component",
            component.display()
        ))),
    }
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
        record: false,
        secret: Vec::new(),
    };
    Box::pin(run(out, loaded, &args, &find(dir).or_fault()?, component)).await
}

async fn run(out: Out, loaded: &Loaded, args: &ToolTest, files: &[Located], component: &Path) -> anyhow::Result<bool> {
    let named = |case: &&Case| args.name.as_ref().is_none_or(|part| case.name.contains(part));
    let answers = if args.record {
        files.iter().try_for_each(can_be_written).or_fault()?;
        Answers::Real(secrets(args)?)
    } else {
        Answers::Written
    };
    let trial = Trial::start(loaded, component, answers).await?;
    if args.record {
        for located in files {
            let recorded = located.file.tests.iter().filter(named);
            recorded
                .filter(|case| may_be_recorded(&case.exchanges))
                .try_for_each(|case| trial.can_record(located, case))?;
        }
    }
    let mut ran = Vec::new();
    for located in files {
        let (mut tests, mut recordings) = (Vec::new(), Vec::new());
        for case in located.file.tests.iter().filter(named) {
            if args.record && !may_be_recorded(&case.exchanges) {
                leave(out, case);
                continue;
            }
            let test = one(&trial, args, (located, case), &mut recordings).await?;
            if !out.json {
                show(out, &test);
            }
            tests.push(test);
        }
        if !recordings.is_empty() {
            write_recorded(located, &recordings)?;
        }
        ran.push(Ran {
            file: located.path.display().to_string(),
            tests,
        });
    }
    trial.stop().await;
    conclude(out, args, &ran)
}

async fn one(
    trial: &Trial,
    args: &ToolTest,
    (located, case): (&Located, &Case),
    recordings: &mut Vec<Recorded>,
) -> anyhow::Result<Test> {
    let how = if args.update {
        Snapshots::Update
    } else {
        Snapshots::Compare
    };
    if args.record {
        let (outcome, recording) = trial.record(located, case, how).await?;
        let recorded = recording.as_ref().map(Recorded::len);
        recordings.extend(recording);
        return Ok(Test {
            outcome,
            failing_outside: Vec::new(),
            recorded,
        });
    }
    let outcome = trial.run(located, case, how).await?;
    let failing_outside = if args.failing_outside && !case.exchanges.is_empty() {
        trial.bend(located, case).await?
    } else {
        Vec::new()
    };
    Ok(Test {
        outcome,
        failing_outside,
        recorded: None,
    })
}

/// The secrets that a recording is made with.
fn secrets(args: &ToolTest) -> anyhow::Result<BTreeMap<SecretName, String>> {
    let one = |secret: &String| {
        let (name, value) = secret.split_once('=').context("--secret takes NAME=VALUE")?;
        Ok((SecretName::new(name)?, value.to_owned()))
    };
    args.secret.iter().map(one).collect::<anyhow::Result<_>>().or_fault()
}

/// Says that a test is not recorded.
fn leave(out: Out, case: &Case) {
    let line = format!(
        "- {}: its exchanges are written by hand, and stay as they are",
        printable(&case.name)
    );
    tell(&format!("{}\n", out.on_errors().style(Style::Dim, line)));
}

fn conclude(out: Out, args: &ToolTest, ran: &[Ran]) -> anyhow::Result<bool> {
    let all = || ran.iter().flat_map(|file| &file.tests);
    let (run, failed) = (all().count(), all().filter(|test| !test.passed()).count());
    if run == 0 && args.record {
        bail!("there is nothing to record: the exchanges of these tests are written by hand");
    }
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
        printable(&outcome.name),
        out.style(Style::Dim, used)
    ));
    for finding in &outcome.findings {
        difference(out, finding);
    }
    if !outcome.findings.is_empty() {
        for refused in &outcome.refused {
            out.line(format_args!("    refused {}", printable(refused)));
        }
        for printed in &outcome.printed {
            for line in printed.to_string().lines() {
                out.line(format_args!("    {line}"));
            }
        }
    }
    if let Some(recorded) = test.recorded {
        out.line(out.style(
            Style::Dim,
            format_args!("    {} recorded", count(recorded as u64, "exchange")),
        ));
    }
    for bent in &test.failing_outside {
        out.line(format_args!(
            "  {} {}  {}",
            mark(out, bent.verdict),
            bent.how,
            out.style(Style::Dim, printable(first_line(&bent.came)))
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
    out.line(format_args!(
        "    {}",
        out.style(Style::Bold, printable(&finding.about))
    ));
    for (label, text) in [("expected", &finding.expected), ("found   ", &finding.found)] {
        for (line, shown) in text.lines().enumerate() {
            let label = if line == 0 { label } else { "        " };
            out.line(format_args!("      {label}  {}", printable(shown)));
        }
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
