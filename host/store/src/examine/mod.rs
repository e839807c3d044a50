//! What is wrong with a data directory, and mending what can be mended safely.
//!
//! [`examine`] changes nothing: it brings no schema up to date, makes no key and finishes nothing that a crash left. Where a host runs,
//! it looks at the database as it is at one moment, and leaves the files alone, which change meanwhile.
//!
//! [`repair`] mends what follows from something that is whole: rows that the journals tell, what is held or kept for nobody. It never
//! touches a journal, a client's file, a key-value or a secret. It begins by opening the store, as a start does.

mod code;

use crate::{
    MasterKeys, OpenError, Problem, Quotas, Schema, StoreError, StoreUrl,
    envelope::Vault,
    lock,
    record::Component,
    sqlite::{
        SqliteStore,
        check::{self, Mend, Named},
        components,
        open::{self, Looked, Others},
        rewrap,
    },
    workspace,
};
use code::Unreferenced;
use fumehood_core::name::OrgName;
use sqlx::Connection as _;
use std::path::{Path, PathBuf};

/// What was found.
#[derive(Debug)]
pub struct Examination {
    /// The schema of the database; `None`: there is no database yet.
    pub schema: Option<Schema>,
    /// Everything that is not as it should be.
    pub findings: Vec<Finding>,
    /// Under which master keys the secrets are, by the keys' names, and how many each.
    pub secrets: Vec<(String, u64)>,
    /// Whether the files were looked at as well.
    pub files: FilesLooked,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub problem: Problem,
    /// Who sees to it.
    pub care: Care,
}

/// Who sees to a problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Care {
    /// Somebody has to: it says how.
    Operator(&'static str),
    /// [`repair`] does: it says what.
    Repair(String),
    /// [`repair`] does, by removing what nobody needs: it does no harm where it lies.
    Tidy(String),
    /// The next start does.
    NextStart,
    /// Nobody has to; it is told so that it isn't forgotten.
    Nobody,
}

impl Finding {
    /// Whether something is lost or wrong, and not only left over.
    #[must_use]
    pub const fn is_damage(&self) -> bool {
        match self.care {
            Care::Operator(_) | Care::Repair(_) => true,
            Care::Tidy(_) | Care::NextStart | Care::Nobody => false,
        }
    }
}

/// Whether files were looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilesLooked {
    /// They were.
    Yes,
    /// They were not asked for.
    NotAsked,
    /// A host changes them meanwhile.
    HostRuns,
}

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The database.
    Database,
    /// With it all files: every byte of code and of kept states is read.
    Everything,
}

/// Why nothing was repaired.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The database does not hang together.
    #[error("the database itself is damaged, and nothing that it tells can be trusted: {0}; restore a backup")]
    Damaged(Problem),
    /// It can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It can't be read or written. What the database has was mended whole or not at all.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a repair mends.
#[derive(Debug, Default)]
struct Mends {
    database: Vec<Mend>,
    states: Vec<workspace::examine::Unsound>,
    code: Vec<Unreferenced>,
}

/// Looks at what is kept, and changes nothing.
///
/// # Errors
/// When the database is damaged so that it can't be opened, is another program's or of a newer version; when the system refuses.
pub async fn examine(data_dir: &Path, url: &StoreUrl, depth: Depth) -> Result<Examination, OpenError> {
    let file = url.file(data_dir);
    let locks = lock::look_at(data_dir, &file)?;
    let others = if locks.is_some() {
        Others::KeptOut
    } else {
        Others::MayWrite
    };
    let files = match (depth, others) {
        (Depth::Database, _) => FilesLooked::NotAsked,
        (Depth::Everything, Others::MayWrite) => FilesLooked::HostRuns,
        (Depth::Everything, Others::KeptOut) => FilesLooked::Yes,
    };
    let Some(mut looked) = open::look(&file, others).await? else {
        return Ok(Examination {
            schema: None,
            findings: Vec::new(),
            secrets: Vec::new(),
            files,
        });
    };
    let findings = findings(&mut looked, data_dir, &file, files).await;
    // Whatever closing says, it was looked at.
    let _ = looked.connection.close().await;
    drop(locks);
    let (findings, secrets) = findings?;
    Ok(Examination {
        schema: Some(looked.schema),
        findings,
        secrets,
        files,
    })
}

/// The components of an org, as they are installed. `None`: there is no database yet. Changes nothing, and looks beside a host that runs.
///
/// # Errors
/// As [`examine`].
pub async fn components(data_dir: &Path, url: &StoreUrl, org: &OrgName) -> Result<Option<Vec<Component>>, OpenError> {
    let file = url.file(data_dir);
    let locks = lock::look_at(data_dir, &file)?;
    let others = match locks {
        Some(_) => Others::KeptOut,
        None => Others::MayWrite,
    };
    let Some(mut looked) = open::look(&file, others).await? else {
        return Ok(None);
    };
    let found = components::of(&mut looked.connection, org).await;
    // Whatever closing says, it was looked at.
    let _ = looked.connection.close().await;
    drop(locks);
    let found = found.map_err(|error| OpenError::Damaged {
        path: file,
        reason: error.to_string(),
    })?;
    Ok(Some(found))
}

/// Mends what can be mended safely, as far as [`examine`] says so, and looks again.
///
/// # Errors
/// See [`RepairError`].
pub async fn repair(
    data_dir: &Path,
    url: &StoreUrl,
    quotas: Quotas,
) -> Result<(Vec<Finding>, Examination), RepairError> {
    let before = examine(data_dir, url, Depth::Database).await?;
    // Not even opened: bringing its schema up to date would write to it.
    let damaged = |finding: &Finding| matches!(finding.problem, Problem::Database(_));
    if let Some(finding) = before.findings.into_iter().find(damaged) {
        return Err(RepairError::Damaged(finding.problem));
    }
    let opened = crate::open_with(data_dir, url, quotas).await?;
    let mended = mend(&opened.sqlite, opened.lock.path()).await;
    opened.close().await;
    Ok((mended?, examine(data_dir, url, Depth::Everything).await?))
}

async fn mend(store: &SqliteStore, data_dir: &Path) -> Result<Vec<Finding>, RepairError> {
    let (mut findings, mut mends) = (Vec::new(), Mends::default());
    of_database(store.look().await?, &mut findings, &mut mends);
    of_files(data_dir, &store.named().await?, &mut findings, &mut mends).await?;
    findings.retain(|finding| matches!(finding.care, Care::Repair(_) | Care::Tidy(_)));
    if !mends.database.is_empty() {
        store.mend(mends.database).await?;
    }
    let path = data_dir.to_owned();
    blocking(data_dir, move || {
        workspace::examine::remove(&path, &mends.states)?;
        code::remove(&path, &mends.code)
    })
    .await?;
    Ok(findings)
}

async fn findings(
    looked: &mut Looked,
    data_dir: &Path,
    file: &Path,
    files: FilesLooked,
) -> Result<(Vec<Finding>, Vec<(String, u64)>), OpenError> {
    let unreadable = |error: StoreError| OpenError::Damaged {
        path: file.into(),
        reason: error.to_string(),
    };
    let (mut findings, mut mends) = (Vec::new(), Mends::default());
    let connection = &mut looked.connection;
    let vault = vault(connection, data_dir, file, &mut findings).await?;
    let found = match looked.schema {
        Schema::Current => check::look(connection, vault.as_ref()).await,
        Schema::Earlier { .. } => check::look_at_structure(connection).await,
    };
    of_database(found.map_err(unreadable)?, &mut findings, &mut mends);
    if files == FilesLooked::Yes {
        let named = check::named(connection).await.map_err(unreadable)?;
        of_files(data_dir, &named, &mut findings, &mut mends).await?;
    }
    let secrets = rewrap::secret_keys(connection).await.map_err(unreadable)?;
    Ok((findings, secrets))
}

/// What opens the secrets, if it is there.
async fn vault(
    connection: &mut sqlx::SqliteConnection,
    data_dir: &Path,
    file: &Path,
    findings: &mut Vec<Finding>,
) -> Result<Option<Vault>, OpenError> {
    let (expected, secrets) = open::sealed_by(connection, file).await?;
    let keys = MasterKeys::existing(data_dir)?;
    let vault = keys.as_ref().and_then(|keys| Vault::new(keys).ok());
    let Some(expected) = expected.filter(|_| secrets > 0) else {
        return Ok(vault);
    };
    if vault.as_ref().is_some_and(|vault| vault.has(&expected)) {
        return Ok(vault);
    }
    let detail = match keys {
        Some(keys) => format!(
            "{secrets} secrets are under the key {expected}; the one that is there is {}",
            keys.first().fingerprint()
        ),
        None => format!("{secrets} secrets are under the key {expected}, and there is no key"),
    };
    findings.push(Finding {
        problem: Problem::MasterKey(detail),
        care: Care::Operator("put that key back into master.key of the data directory, or set FUMEHOOD_MASTER_KEY"),
    });
    Ok(None)
}

fn of_database(found: Vec<check::Found>, findings: &mut Vec<Finding>, mends: &mut Mends) {
    for check::Found { problem, mend } in found {
        let care = match (&mend, &problem) {
            (Some(mend @ Mend::Reservation { .. }), _) => Care::Tidy(mend.to_string()),
            (Some(mend), _) => Care::Repair(mend.to_string()),
            (None, Problem::Unfinished(_)) => Care::NextStart,
            (None, Problem::Secret { .. }) => Care::Operator("set the secret again, or delete it"),
            (None, _) => Care::Operator("restore a backup"),
        };
        findings.push(Finding { problem, care });
        mends.database.extend(mend);
    }
}

async fn of_files(
    data_dir: &Path,
    named: &Named,
    findings: &mut Vec<Finding>,
    mends: &mut Mends,
) -> Result<(), OpenError> {
    let (path, sessions, code) = (data_dir.to_owned(), named.sessions.clone(), named.code.clone());
    let (files, code) = blocking(data_dir, move || {
        Ok((
            workspace::examine::examine(&path, &sessions)?,
            code::examine(&path, &code)?,
        ))
    })
    .await?;
    for found in files {
        use workspace::examine::Found;
        let (detail, care) = match found {
            Found::Left(detail) => (detail, Care::NextStart),
            Found::Aside(detail) => (detail, Care::Nobody),
            Found::Unsound(unsound) => {
                let what = "remove what can't be gone back to; files in workspaces stay as they are".to_owned();
                let care = if unsound.is_damage() {
                    Care::Repair(what)
                } else {
                    Care::Tidy(what)
                };
                let detail = unsound.detail();
                mends.states.push(unsound);
                (detail, care)
            }
        };
        findings.push(Finding {
            problem: Problem::Files(detail),
            care,
        });
    }
    findings.extend(code.findings);
    mends.code.extend(code.unreferenced);
    Ok(())
}

async fn blocking<T: Send + 'static>(
    data_dir: &Path,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, OpenError> {
    let path: PathBuf = data_dir.to_owned();
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.unwrap_or_else(|error| Err(std::io::Error::other(error.to_string())));
    done.map_err(|error| OpenError::io(path, &error))
}
