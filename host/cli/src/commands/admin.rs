//! `fumehood key …` and `fumehood org …`: what has no place in the API of an org. Needs the data directory for itself.

use crate::{
    args::{Key, Org},
    boot,
    config::Loaded,
    keys,
    out::{Out, count, printable},
    standard, terminal,
};
use anyhow::{Context as _, bail};
use fumehood_core::name::OrgName;
use fumehood_store::{OpenError, Opened, deletion};
use secrecy::ExposeSecret as _;
use serde_json::json;
use std::io::{self, IsTerminal as _};

pub(crate) async fn key(out: Out, loaded: &Loaded, command: &Key) -> anyhow::Result<()> {
    let opened = open(loaded).await?;
    let store = &opened.store;
    let named = |org: &Option<OrgName>| org.clone().unwrap_or_else(OrgName::default_org);
    match command {
        Key::Create { label, org } => {
            let org = known_org(&opened, named(org)).await?;
            let (key, token) = keys::create(&**store, &org, label).await?;
            let token = token.expose_secret();
            out.either(&json!({"id": key.id, "org": org, "label": label, "key": token}), |_| {
                eprintln!("{} for the org {org}; it is shown once:", key.id);
                out.line(token);
            });
        }
        Key::List { org } => {
            let keys = store.keys(&known_org(&opened, named(org)).await?).await?;
            out.either(&json!({"items": keys}), |_| {
                let row = |key: &fumehood_store::record::Key| {
                    vec![
                        key.id.to_string(),
                        printable(&key.label),
                        key.created.format("%Y-%m-%d %H:%M").to_string(),
                    ]
                };
                out.table(&["key", "label", "created"], keys.iter().map(row).collect(), "no keys");
            });
        }
        Key::Revoke { id, org } => {
            let org = known_org(&opened, named(org)).await?;
            if !store.revoke_key(&org, *id).await? {
                bail!("the org {org} has no key {id}");
            }
            out.either(&json!({"revoked": id}), |_| out.line(format_args!("revoked {id}")));
        }
    }
    opened.close().await;
    Ok(())
}

pub(crate) async fn org(out: Out, loaded: &Loaded, command: &Org) -> anyhow::Result<()> {
    let opened = open(loaded).await?;
    match command {
        Org::List => {
            let orgs = opened.store.orgs().await?;
            out.either(&json!({"items": orgs}), |_| {
                let row = |org: &fumehood_store::record::Org| {
                    vec![org.name.to_string(), org.created.format("%Y-%m-%d %H:%M").to_string()]
                };
                out.table(&["org", "created"], orgs.iter().map(row).collect(), "no orgs");
            });
            opened.close().await;
        }
        Org::Create { name } => {
            let running = boot::start_on(loaded, opened).await?;
            let store = running.host.store();
            store
                .create_org(name)
                .await
                .with_context(|| format!("cannot make the org {name}"))?;
            standard::install(&running.host, name).await?;
            let (key, token) = keys::create(&**store, name, "made with the org").await?;
            let token = token.expose_secret();
            out.either(&json!({"org": name, "id": key.id, "key": token}), |_| {
                eprintln!("made the org {name} with the key {}; it is shown once:", key.id);
                out.line(token);
            });
            running.stop().await;
        }
        Org::Delete { name, yes } => delete_org(out, opened, name, *yes).await?,
    }
    Ok(())
}

async fn delete_org(out: Out, opened: Opened, name: &OrgName, yes: bool) -> anyhow::Result<()> {
    let org = known_org(&opened, name.clone()).await?;
    if org == OrgName::default_org() {
        bail!(
            "the org {org} is made by every start and can't be deleted; delete its sessions, keys and components instead"
        );
    }
    if !yes && !confirmed(&org).await? {
        bail!("nothing was deleted");
    }
    let compiled = opened.lock.path().join("compiled");
    let deleted = deletion::delete_org(opened, &org).await?;
    let (kept, not_erased) = (deleted.code, deleted.not_erased);
    tokio::task::spawn_blocking(move || fumehood_sandbox::prune_compiled(&compiled, &kept))
        .await?
        .context("the org is deleted, but not all of the compiled code of its components; the next deletion of an org removes it")?;
    out.either(&json!({"deleted": org, "sessions": deleted.sessions}), |_| {
        out.line(format_args!(
            "deleted the org {org} with {}",
            count(deleted.sessions, "session")
        ));
    });
    match not_erased {
        None => Ok(()),
        Some(why) => bail!(
            "the org {org} is deleted, but bytes of it are left in unused pages of the database file, which can't be written anew now: \
             {why}; see to it that its disk has as much room as the database takes, and start the host or run `fumehood doctor --store --repair`, \
             which try again"
        ),
    }
}

/// Whether somebody at the terminal says the org's name.
async fn confirmed(org: &OrgName) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("deleting an org can't be undone; say that you mean it with --yes");
    }
    eprintln!("This deletes the org {org} with its keys, sessions, files, secrets and ledger, and can't be undone.");
    // What was typed before answers something else.
    terminal::forget_typed()?;
    let answer = terminal::line("Type its name to go on: ").await?;
    Ok(answer.is_some_and(|answer| answer.trim() == org.as_str()))
}

async fn known_org(opened: &Opened, org: OrgName) -> anyhow::Result<OrgName> {
    match opened.store.org(&org).await? {
        Some(_) => Ok(org),
        None => bail!("there is no org `{org}`; `fumehood org list` shows them, `fumehood org create {org}` makes it"),
    }
}

async fn open(loaded: &Loaded) -> anyhow::Result<Opened> {
    match boot::open(&loaded.config).await {
        Err(error @ OpenError::InUse { .. }) => {
            Err(error).context("keys and orgs are changed while no host serves from this data directory")
        }
        other => Ok(other?),
    }
}
