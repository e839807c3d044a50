//! `fumehood tool update`: whether there is something newer than what is locked, how it differs, and it in the place of what is there, if
//! somebody says so.

use crate::{
    args::ToolUpdate,
    boot,
    client::Client,
    commands::{
        tool::{self, Decision},
        tool_add::{allowed, entry, keep, outside},
    },
    compiled_code::CompiledCode,
    config::Loaded,
    distribution::{Entry, Fetched, Lock, LockFile, Outside, Replacing, Source, ToolDifference, between},
    out::{Out, Style, one_line, printable, text},
    terminal,
};
use anyhow::{Context as _, bail, ensure};
use fumehood_agent::install::{Inspected, NewGrant, inspect};
use fumehood_core::tool::ToolDefinition;
use fumehood_policy::{
    grant::{self, Difference, Grant},
    manifest::Manifest,
};
use fumehood_sandbox::ShareKey;
use serde::Serialize;
use serde_json::{Value, json};
use std::io::{self, IsTerminal as _};

/// The longest line about a schema.
const LONGEST: usize = 200;

/// What there is to be said of one component.
#[derive(Serialize)]
struct News {
    name: String,
    source: String,
    before: Version,
    now: Version,
    /// Whether it asks for anything that the one before did not.
    wider: bool,
    capabilities: Difference,
    tools: Vec<ToolDifference>,
}

#[derive(Serialize)]
struct Version {
    version: String,
    digest: String,
}

/// What is installed.
struct Installed {
    manifest: Manifest,
    grant: Option<Grant>,
    tools: Vec<ToolDefinition>,
    digest: String,
}

/// Whether each that was asked for is what it is to be now.
pub(crate) async fn update(out: Out, loaded: &Loaded, client: &Client, args: &ToolUpdate) -> anyhow::Result<bool> {
    let file = LockFile::of(loaded);
    let lock = file.read()?;
    let wanted: Vec<&Entry> = match &args.name {
        Some(name) => {
            let entry = lock.get(name);
            vec![entry.with_context(|| format!("fumehood.lock has no {name}; `fumehood tool add` pins what it adds"))?]
        }
        None => lock.entries().iter().filter(|entry| entry.follows()).collect(),
    };
    if wanted.is_empty() && !out.json {
        out.line("fumehood.lock has nothing from a tag of a registry or from a web server");
    }
    let updating = Updating {
        out,
        loaded,
        client,
        args,
        outside: outside(loaded, &args.way, None)?,
        lock: &lock,
        file: &file,
    };
    let mut well = true;
    for entry in wanted {
        if let Err(error) = updating.one(entry).await {
            well = false;
            crate::out::tell(&format!("{}: {error:#}\n", entry.name));
        }
    }
    Ok(well)
}

struct Updating<'a> {
    out: Out,
    loaded: &'a Loaded,
    client: &'a Client,
    args: &'a ToolUpdate,
    outside: Outside,
    lock: &'a Lock,
    file: &'a LockFile,
}

impl Updating<'_> {
    async fn one(&self, entry: &Entry) -> anyhow::Result<()> {
        let source = self.outside.newest(&entry.source_in(self.file.dir())?).await?;
        let fetched = self.outside.fetch(&source).await?;
        if fetched.digest == entry.digest {
            let same = json!({"name": entry.name, "source": entry.source, "digest": entry.digest, "updated": false});
            self.out.either(&same, |_| {
                self.out.line(format_args!("{}: nothing newer at {source}", entry.name));
            });
            return Ok(());
        }
        allowed(&fetched, self.lock, Replacing::Changed)?;
        let inspected = self.inspect(&fetched).await?;
        ensure!(
            inspected.manifest.name == entry.name,
            "what is at {source} calls itself {}; it is no version of this component",
            inspected.manifest.name
        );
        let installed = installed(self.client, entry).await?;
        let news = news(&source.to_string(), &installed, &inspected);
        if !self.out.json {
            show(self.out, &news);
        }
        self.is_named(entry, &source)?;
        self.agreed(&news)?;
        self.replace(&fetched, &installed, &news).await
    }

    /// Refuses what the next start would refuse: where the configuration names another place.
    fn is_named(&self, entry: &Entry, source: &Source) -> anyhow::Result<()> {
        let name = &entry.name;
        match self.loaded.config.tool.get(name) {
            Some(section) if section.source.is_remote() && section.source.place() != source.place() => bail!(
                "nothing was updated: [tool.{name}] names {}. To have this one, write `source = \"{}\"` there, and `fumehood tool lock`",
                section.source,
                source.place()
            ),
            Some(section) if section.source.pinned().or(section.digest).is_some() => bail!(
                "nothing was updated: [tool.{name}] pins a digest. To have this one, change it there, and `fumehood tool lock`"
            ),
            _ => Ok(()),
        }
    }

    /// As the host will see it.
    async fn inspect(&self, fetched: &Fetched) -> anyhow::Result<Inspected> {
        let sandbox = boot::looking(&self.loaded.config, CompiledCode::of_user())?;
        let new = fetched.file.component(NewGrant::Undecided);
        Ok(inspect(&sandbox, ShareKey::default(), &new).await?)
    }

    /// Whether somebody wants it, knowing what it asks.
    // THREAT[T-supply-wide-request]: what asks for more takes no other's place without being asked for by that.
    fn agreed(&self, news: &News) -> anyhow::Result<()> {
        let refused = |why: &str| {
            if self.out.json {
                self.out.value(&with(news, json!({"updated": false})));
            }
            bail!("{why}")
        };
        match (self.args.yes, news.wider) {
            (true, false) => Ok(()),
            (true, true) if self.args.accept_wider => Ok(()),
            (true, true) => refused(
                "the new version asks for more, so --yes alone does not update it; say --accept-wider as well, or leave --yes out to be asked",
            ),
            (false, _) if self.out.json || !io::stdin().is_terminal() => refused(
                "nothing was updated: nobody can be asked here; say --yes, and --accept-wider for what asks for more",
            ),
            (false, wider) => {
                let more = if wider { "It asks for more than before. " } else { "" };
                // What was typed before answers something else.
                terminal::forget_typed()?;
                eprint!("{more}Update {}? [y/N] ", news.name);
                let mut answer = String::new();
                io::stdin().read_line(&mut answer)?;
                match answer.trim().to_ascii_lowercase().as_str() {
                    "y" | "yes" => Ok(()),
                    _ => bail!("nothing was updated"),
                }
            }
        }
    }

    async fn replace(&self, fetched: &Fetched, installed: &Installed, news: &News) -> anyhow::Result<()> {
        self.file.check_writable()?;
        keep(self.loaded, fetched);
        let component = tool::post(self.client, &fetched.file, &decision(installed, news)).await?;
        let entry = entry(fetched, &component, self.file)?;
        self.file
            .record(entry)
            .context("the component is updated, but not pinned")?;
        let done = with(news, json!({"updated": true, "component": component}));
        self.out.either(&done, |_| {
            let now = printable(&news.now.version);
            self.out.line(format_args!(
                "\n{}",
                self.out.style(Style::Good, format_args!("{} is {now} now", news.name))
            ));
            if component.get("grant").is_none() {
                self.out.line(format_args!(
                    "It may do nothing yet: `fumehood tool grant {}`.",
                    news.name
                ));
            }
        });
        Ok(())
    }
}

/// What is decided about the new version: what was decided about the one before. To an org that had granted all that was asked, all;
/// to one that had granted less, no more than that.
fn decision(installed: &Installed, news: &News) -> Decision {
    match &installed.grant {
        // The host takes it over.
        _ if !news.wider => Decision::Nothing,
        None => Decision::Nothing,
        Some(grant) if grant::wider_than(&installed.manifest, grant).is_empty() => Decision::Requested,
        Some(grant) => Decision::exactly(grant.clone()),
    }
}

async fn installed(client: &Client, entry: &Entry) -> anyhow::Result<Installed> {
    let component = client.find(&format!("/v1/tools/{}", entry.name)).await?;
    let component = component.with_context(|| {
        format!(
            "it is in fumehood.lock, but not installed here; `fumehood tool add {} --locked` installs it",
            entry.source
        )
    })?;
    let part = |key: &str| component.get(key).cloned().unwrap_or_default();
    Ok(Installed {
        manifest: serde_json::from_value(part("manifest")).context("the host's answer has no manifest")?,
        grant: serde_json::from_value(part("grant")).context("the host's answer has a grant that can't be read")?,
        tools: serde_json::from_value(part("tools")).context("the host's answer has tools that can't be read")?,
        digest: text(&component, "digest").to_owned(),
    })
}

fn news(source: &str, before: &Installed, now: &Inspected) -> News {
    let capabilities = Difference::between(&before.manifest, &now.manifest);
    News {
        name: now.manifest.name.to_string(),
        source: source.to_owned(),
        before: Version {
            version: before.manifest.version.clone(),
            digest: before.digest.clone(),
        },
        now: Version {
            version: now.manifest.version.clone(),
            digest: now.digest.to_string(),
        },
        wider: capabilities.is_wider(),
        capabilities,
        tools: between(&before.tools, &now.tools),
    }
}

fn with(news: &News, more: Value) -> Value {
    let mut value = json!(news);
    if let (Some(value), Value::Object(more)) = (value.as_object_mut(), more) {
        value.extend(more);
    }
    value
}

fn show(out: Out, news: &News) {
    out.line(format_args!(
        "{} {} → {}",
        out.style(Style::Bold, &news.name),
        printable(&news.before.version),
        printable(&news.now.version)
    ));
    out.line(out.style(Style::Dim, &news.source));
    out.line(out.style(Style::Dim, &news.now.digest));
    let asked = &news.capabilities;
    if asked.added.is_empty() && asked.removed.is_empty() {
        out.line("\nIt asks for the same as the version before.");
    }
    let wider = asked
        .added
        .iter()
        .map(|line| out.style(Style::Bad, format_args!("+ wider: {}", printable(line))));
    let narrower = asked.removed.iter().map(|line| format!("- {}", printable(line)));
    tool::section(out, "asks differently", wider.chain(narrower));
    let tools = news
        .tools
        .iter()
        .map(|difference| one_line(&difference.sentence(), LONGEST));
    tool::section(out, "its tools", tools);
}
