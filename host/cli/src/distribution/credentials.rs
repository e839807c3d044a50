//! Who somebody is to a registry: as `docker login` or `podman login` left it, or as the environment says.
//!
//! Read only; nothing is asked for and nothing kept.

use super::reference::{self, DOCKER_HUB};
use anyhow::{Context as _, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::SecretString;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::io::AsyncWriteExt as _;

/// `user:password@registry`.
pub(crate) const VARIABLE: &str = "FUMEHOOD_REGISTRY_AUTH";
const LARGEST_FILE: u64 = 1 << 20;
/// How long a helper may take, with somebody who unlocks a key ring.
const HELPER: Duration = Duration::from_secs(60);

/// A login.
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) password: SecretString,
    /// Where they are from, for messages.
    pub(super) from: String,
}

/// What is known of a registry. None: nobody logged in.
pub(super) async fn find(registry: &str) -> anyhow::Result<Option<Credentials>> {
    let variable = std::env::var(VARIABLE).ok();
    if let Some(found) = variable.as_deref().map(from_variable).transpose()?
        && reference::registry(&found.0).as_deref() == Some(registry)
    {
        return Ok(Some(found.1));
    }
    for file in files() {
        let found = match in_file(&file, registry)? {
            Some(Known::Login(credentials)) => Some(credentials),
            Some(Known::Helper { name, server }) => ask(&name, &server).await?,
            None => None,
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// What a registry may be called where logins are kept.
fn names(registry: &str) -> Vec<String> {
    let mut names = vec![registry.to_owned(), format!("https://{registry}")];
    if registry == DOCKER_HUB {
        // As `docker login` has called it since before there were others.
        names.extend(["https://index.docker.io/v1/", "index.docker.io"].map(str::to_owned));
    }
    names
}

fn from_variable(text: &str) -> anyhow::Result<(String, Credentials)> {
    let parts = text
        .rsplit_once('@')
        .and_then(|(login, registry)| Some((login.split_once(':')?, registry)));
    let Some(((user, password), registry)) = parts else {
        bail!("{VARIABLE} is not of the form user:password@registry");
    };
    let credentials = Credentials {
        user: user.to_owned(),
        password: password.to_owned().into(),
        from: VARIABLE.to_owned(),
    };
    Ok((registry.to_owned(), credentials))
}

/// The files of other programs that hold logins, in the order in which they count.
fn files() -> Vec<PathBuf> {
    let variable = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let home = variable("HOME");
    [
        variable("REGISTRY_AUTH_FILE"),
        variable("DOCKER_CONFIG").map(|dir| dir.join("config.json")),
        home.as_ref().map(|home| home.join(".docker/config.json")),
        variable("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
        home.map(|home| home.join(".config/containers/auth.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
    #[serde(default, rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(default, rename = "credsStore")]
    store: Option<String>,
}

#[derive(Default, Deserialize)]
struct Auth {
    #[serde(default)]
    auth: Option<String>,
    #[serde(default, rename = "identitytoken")]
    identity_token: Option<String>,
}

enum Known {
    Login(Credentials),
    /// Asked for a server by this name.
    Helper {
        name: String,
        server: String,
    },
}

fn in_file(file: &Path, registry: &str) -> anyhow::Result<Option<Known>> {
    match std::fs::metadata(file) {
        Ok(metadata) if metadata.len() > LARGEST_FILE => {
            bail!("{} is too large to be a file of logins", file.display())
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
    let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    // What is wrong with it is not repeated: it would be a part of a password.
    let parsed: File = serde_json::from_slice(&text)
        .map_err(|error| anyhow::anyhow!("{} can't be read (line {})", file.display(), error.line()))?;
    known(parsed, registry, &file.display().to_string())
}

fn known(file: File, registry: &str, name: &str) -> anyhow::Result<Option<Known>> {
    let names = names(registry);
    if let Some((server, helper)) = names.iter().find_map(|name| file.helpers.get_key_value(name)) {
        return Ok(Some(Known::Helper {
            name: helper.clone(),
            server: server.clone(),
        }));
    }
    let Some((server, entry)) = names.iter().find_map(|name| file.auths.get_key_value(name)) else {
        return Ok(None);
    };
    let Some(auth) = entry.auth.as_deref().filter(|auth| !auth.is_empty()) else {
        if entry.identity_token.is_some() {
            bail!(
                "the login for {registry} in {name} is an identity token, which is not supported; log in with a password, or set {VARIABLE}"
            );
        }
        return Ok(file.store.map(|name| Known::Helper {
            name,
            server: server.clone(),
        }));
    };
    let decoded = STANDARD
        .decode(auth)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    let Some((user, password)) = decoded.as_deref().and_then(|login| login.split_once(':')) else {
        bail!("the login for {registry} in {name} can't be read; log in again");
    };
    Ok(Some(Known::Login(Credentials {
        user: user.to_owned(),
        password: password.trim_end_matches('\0').to_owned().into(),
        from: name.to_owned(),
    })))
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Username")]
    user: String,
    #[serde(rename = "Secret")]
    secret: String,
}

/// Asks `docker-credential-NAME`. None where it knows nothing of the server.
async fn ask(helper: &str, server: &str) -> anyhow::Result<Option<Credentials>> {
    if helper.is_empty()
        || !helper
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    {
        bail!("`{helper}` is no name of a credential helper");
    }
    let program = format!("docker-credential-{helper}");
    let mut child = tokio::process::Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("the login for {server} is with {program}, which can't be run"))?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    let asked = async {
        match stdin.write_all(server.as_bytes()).await {
            // One that ends before it has read all says what it has to say by how it ends.
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(error),
            Ok(()) | Err(_) => {}
        }
        drop(stdin);
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(HELPER, asked)
        .await
        .with_context(|| format!("{program} did not answer"))?
        .with_context(|| format!("{program} can't be asked"))?;
    if !output.status.success() {
        return Ok(None);
    }
    let answer: Answer =
        serde_json::from_slice(&output.stdout).map_err(|_| anyhow::anyhow!("{program} answered what can't be read"))?;
    if answer.user == "<token>" {
        bail!("{program} has an identity token for {server}, which is not supported; set {VARIABLE}");
    }
    Ok(Some(Credentials {
        user: answer.user,
        password: answer.secret.into(),
        from: program,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    fn known_in(text: &str, registry: &str) -> anyhow::Result<Option<Known>> {
        known(serde_json::from_str(text).unwrap(), registry, "config.json")
    }

    #[test]
    fn a_login_of_docker_or_podman_is_found_by_its_registry() {
        let auth = STANDARD.encode("me:pass:word");
        let text =
            format!(r#"{{"auths": {{"ghcr.io": {{"auth": "{auth}"}}}}, "credHelpers": {{"gcr.io": "gcloud"}}}}"#);
        let Some(Known::Login(login)) = known_in(&text, "ghcr.io").unwrap() else {
            panic!("no login")
        };
        assert_eq!(
            (login.user.as_str(), login.password.expose_secret()),
            ("me", "pass:word")
        );
        assert_eq!(helper(&text, "gcr.io").as_deref(), Some("gcloud gcr.io"));
        assert!(known_in(&text, "evil.example").unwrap().is_none());
    }

    /// Which program is asked for which server.
    fn helper(text: &str, registry: &str) -> Option<String> {
        match known_in(text, registry).unwrap() {
            Some(Known::Helper { name, server }) => Some(format!("{name} {server}")),
            Some(Known::Login(_)) | None => None,
        }
    }

    #[test]
    fn a_store_is_asked_by_the_name_under_which_the_login_was_put_there() {
        let hub = "https://index.docker.io/v1/";
        for (text, registry, asked) in [
            (
                r#"{"auths": {"https://index.docker.io/v1/": {}}, "credsStore": "desktop"}"#,
                "docker.io",
                Some(format!("desktop {hub}")),
            ),
            (
                r#"{"credHelpers": {"https://index.docker.io/v1/": "pass"}}"#,
                "docker.io",
                Some(format!("pass {hub}")),
            ),
            (
                r#"{"auths": {"https://ghcr.io": {}}, "credsStore": "desktop"}"#,
                "ghcr.io",
                Some("desktop https://ghcr.io".to_owned()),
            ),
            (
                r#"{"auths": {"https://index.docker.io/v1/": {}}, "credsStore": "desktop"}"#,
                "ghcr.io",
                None,
            ),
            (r#"{"auths": {"ghcr.io": {}}}"#, "ghcr.io", None),
        ] {
            assert_eq!(helper(text, registry), asked, "{text}");
        }
    }

    #[test]
    fn a_login_that_cannot_be_used_is_refused_without_being_shown() {
        for text in [
            r#"{"auths": {"ghcr.io": {"auth": "c2VjcmV0"}}}"#,
            r#"{"auths": {"ghcr.io": {"identitytoken": "secret"}}}"#,
        ] {
            let refused = known_in(text, "ghcr.io").err().unwrap().to_string();
            assert!(refused.contains("ghcr.io") && !refused.contains("secret"), "{refused}");
        }
    }

    #[test]
    fn the_variable_is_for_the_registry_that_it_names() {
        let (registry, login) = from_variable("me:p@ss:w@ghcr.io").unwrap();
        assert_eq!(
            (registry.as_str(), login.password.expose_secret()),
            ("ghcr.io", "p@ss:w")
        );
        let refused = from_variable("s3cret").err().unwrap().to_string();
        assert!(!refused.contains("s3cret"), "{refused}");
    }
}
