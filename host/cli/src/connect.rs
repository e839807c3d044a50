//! How a command reaches a host: the one that is serving, or one started for the command alone.
//!
//! Only one process may use a data directory. When another holds it, that is the serving host, and the command talks to it over
//! HTTP; otherwise the command starts a host of its own on a loopback port and talks to it the same way. Such a host ends with the
//! command: it works what the command asks for, and leaves alone what an earlier process left.

use crate::{
    boot::{self, Running},
    client::Client,
    config::Loaded,
    keys,
};
use anyhow::{Context as _, bail};
use fumehood_core::{
    id::{SessionId, TurnId},
    name::OrgName,
};
use fumehood_store::{OpenError, Place};
use secrecy::SecretString;
use std::net::SocketAddr;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// A host to talk to, and, if it was started for this command, the host itself.
pub(crate) struct Connection {
    pub(crate) client: Client,
    own: Option<Own>,
}

struct Own {
    running: Running,
    shutdown: CancellationToken,
    server: JoinHandle<()>,
}

impl Connection {
    /// Works what is left in a session before the command adds to it, where no serving host does.
    pub(crate) async fn finish_session(&self, session: SessionId) -> anyhow::Result<Vec<TurnId>> {
        match &self.own {
            Some(own) => Ok(own
                .running
                .host
                .finish_session(&OrgName::default_org(), session)
                .await?),
            None => Ok(Vec::new()),
        }
    }

    /// Has the waits of a session ended when their time is over, where no serving host does.
    pub(crate) fn end_waits_of(&self, session: &str) -> anyhow::Result<()> {
        if let Some(own) = &self.own {
            own.running.host.end_waits_of(session.parse()?);
        }
        Ok(())
    }

    /// Ends the connection, and the host if it is the command's own.
    pub(crate) async fn close(self) {
        if let Some(own) = self.own {
            own.shutdown.cancel();
            // The server's own end is all there is to wait for.
            let _ = own.server.await;
            own.running.stop().await;
        }
    }
}

/// Connects to the serving host, or starts one.
pub(crate) async fn connect(loaded: &Loaded) -> anyhow::Result<Connection> {
    match boot::open(&loaded.config).await {
        Ok(opened) => {
            let running = boot::start_on(loaded, opened).await?;
            boot::tell_of_new_key(&running, loaded);
            connect_to_own(running, loaded).await
        }
        Err(OpenError::InUse {
            place: Place::DataDir, ..
        }) => connect_to_serving(loaded).await,
        Err(error) => Err(error.into()),
    }
}

/// Serves a host of this process on a loopback port.
pub(crate) async fn connect_to_own(running: Running, loaded: &Loaded) -> anyhow::Result<Connection> {
    let key = key(loaded)?;
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
        .await
        .context("cannot listen on loopback")?;
    let base = format!("http://{}", listener.local_addr()?);
    let config = boot::server_config(loaded)?;
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(fumehood_server::serve(
        listener,
        running.host.clone(),
        config,
        shutdown.clone(),
    ));
    Ok(Connection {
        client: Client::new(base, key)?,
        own: Some(Own {
            running,
            shutdown,
            server,
        }),
    })
}

/// Connects to the serving host.
pub(crate) async fn connect_to_serving(loaded: &Loaded) -> anyhow::Result<Connection> {
    let address = loaded.config.listen;
    let base = std::env::var("FUMEHOOD_URL").unwrap_or_else(|_| format!("http://{address}"));
    let client = Client::new(base, key(loaded)?)?;
    if client.get("/healthz").await.is_err() {
        bail!(
            "the data directory is in use by another process, but no host answers at {}; \
             if it serves elsewhere, set FUMEHOOD_URL or `listen`",
            client.base()
        );
    }
    Ok(Connection { client, own: None })
}

fn key(loaded: &Loaded) -> anyhow::Result<SecretString> {
    if let Some(key) = boot::variable("FUMEHOOD_KEY") {
        return Ok(key);
    }
    let file = keys::file(&loaded.config.data_dir);
    let text = std::fs::read_to_string(&file).with_context(|| {
        format!(
            "no key: set FUMEHOOD_KEY, or make one with `fumehood key create` and put it into {}",
            file.display()
        )
    })?;
    Ok(SecretString::from(text.trim().to_owned()))
}
