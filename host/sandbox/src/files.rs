//! Files for guests: `/workspace` as granted and a fresh `/tmp`, both opened only when the guest
//! first asks what there is, because most calls never do.
//!
//! Both are a [`Tree`]: what a guest changes is charged to the tree's quota first, and nothing leads
//! out of it, neither `..` nor a symbolic link. Whatever touches the disk runs on the executor's
//! blocking threads (67 µs for an open, read and close against 35 µs in place), because a slow disk
//! must not stall other calls.
//!
//! A grant of paths opens those folders alone, and never through a link: what a link in their place
//! leads to was not granted. A grant of a single file opens the folder it lies in, restricted to that
//! name: everything else in it answers `access`, and links are not followed.
//!
//! There are no hard links: a second name would make a file reachable where the first is not granted.

mod host;
mod listing;
mod seen;
mod stream;
pub(crate) mod tmp;
pub(crate) mod work;

pub(crate) use self::host::PREOPENS;

use self::{
    seen::Seen,
    tmp::{Tmp, TmpRoot},
    work::{Account, Worker},
};
use crate::{call::Denial, stdio::CallLog, trap::HostFailed, witness::Witness};
use cap_std::fs::Dir as CapDir;
use fumehood_files::{FileError, Full, Limit, OpenFile, Tree, open_dir_itself};
use fumehood_policy::{authority::Authority, files::WorkspacePath};
use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::Path,
    sync::Arc,
};
use wasmtime::component::HasData;
use wasmtime_wasi::{
    FsPerms, OpenMode,
    filesystem::{Dir, WasiFilesystemCtxView},
    p2::{FsError, bindings::filesystem::types::ErrorCode},
};

/// What the guest may see of the workspace.
#[derive(Debug, Clone)]
pub(crate) struct WorkspacePlan {
    pub(crate) tree: Arc<Tree>,
    pub(crate) perms: FsPerms,
    /// Paths below the workspace, or all of it.
    pub(crate) paths: Option<Vec<WorkspacePath>>,
    /// Says why more is denied.
    pub(crate) authority: Arc<Authority>,
}

/// The files of one call.
pub(crate) struct Files {
    workspace: Option<WorkspacePlan>,
    tmp_quota: u64,
    tmp_root: Arc<TmpRoot>,
    log: Arc<CallLog>,
    account: Account,
    worker: Option<Worker>,
    /// The guest's descriptors, by their number.
    descriptors: HashMap<u32, Place>,
    opened: Option<Opened>,
    /// For who explains the call.
    seen: Option<Seen>,
}

struct Opened {
    /// Without `/tmp`.
    preopens: Vec<Preopen>,
    tmp: Option<Tmp>,
}

#[derive(Clone)]
struct Preopen {
    dir: Dir,
    guest_path: String,
    place: Place,
}

/// Where a descriptor leads.
#[derive(Clone)]
struct Place {
    home: Home,
    tree: Arc<Tree>,
    /// These entries only.
    names: Option<Arc<[String]>>,
    /// Set for files.
    file: Option<OpenFile>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Home {
    Workspace,
    Tmp,
}

impl Files {
    pub(crate) fn new(
        workspace: Option<WorkspacePlan>,
        tmp_quota: u64,
        tmp_root: Arc<TmpRoot>,
        log: Arc<CallLog>,
        account: Account,
    ) -> Self {
        Self {
            workspace,
            tmp_quota,
            tmp_root,
            log,
            account,
            worker: None,
            descriptors: HashMap::new(),
            opened: None,
            seen: None,
        }
    }

    /// The same, with who takes down what is asked of it.
    pub(crate) fn seen_by(self, witness: Option<Arc<Witness>>) -> Self {
        Self {
            seen: witness.map(|witness| Seen::new(witness, self.workspace.as_ref())),
            ..self
        }
    }

    /// What there is for the guest. Opened when it is first asked for.
    async fn open(&mut self) -> Result<Vec<Preopen>, HostFailed> {
        let opened = match self.opened.take() {
            Some(opened) => opened,
            None => self.open_now().await?,
        };
        let opened = self.opened.insert(opened);
        let mut preopens = opened.preopens.clone();
        if let Some(tmp) = &opened.tmp {
            preopens.push(Preopen {
                dir: tmp.root(),
                guest_path: "/tmp".to_owned(),
                place: Place {
                    home: Home::Tmp,
                    tree: Arc::clone(tmp.tree()),
                    names: None,
                    file: None,
                },
            });
        }
        Ok(preopens)
    }

    // THREAT[T-box-stall-executor]: making what is granted waits for whoever changes the session's files.
    async fn open_now(&mut self) -> Result<Opened, HostFailed> {
        let (workspace, parent, quota) = (self.workspace.clone(), Arc::clone(&self.tmp_root), self.tmp_quota);
        let worker = self.worker().clone();
        let remover = worker.clone();
        let open = move || {
            let preopens = match &workspace {
                Some(plan) => open_workspace(plan)
                    .map_err(|error| HostFailed::new("the session's files cannot be opened", &error))?,
                None => Vec::new(),
            };
            let tmp = match quota {
                0 => None,
                quota => Some(
                    Tmp::create(&parent, quota, remover)
                        .map_err(|error| HostFailed::new("no temporary directory can be made", &error))?,
                ),
            };
            Ok(Opened { preopens, tmp })
        };
        let opened = worker.start(open).done().await;
        opened.map_err(|error| HostFailed::new("the session's files cannot be opened", &error))?
    }

    fn worker(&mut self) -> &Worker {
        self.worker.get_or_insert_with(|| self.account.worker())
    }

    /// What may only be read is to be changed: the interface has no words for why not.
    fn not_to_be_changed(&self) -> FsError {
        let denied = self.workspace.as_ref().map(|plan| plan.authority.may_change_files());
        if let Some(Err(refusal)) = denied {
            self.log.deny(Denial::new(refusal.message));
        }
        ErrorCode::NotPermitted.into()
    }

    fn refusals(&self, home: Home) -> Refusals {
        Refusals {
            home,
            log: Arc::clone(&self.log),
        }
    }
}

/// Turns what a tree refused into what the guest sees, and notes it with the call where the guest's
/// interface has too few words.
#[derive(Clone)]
struct Refusals {
    home: Home,
    log: Arc<CallLog>,
}

impl Refusals {
    fn code(&self, error: FileError) -> FsError {
        match self.note(error) {
            Noted::Code(code) => code.into(),
            Noted::Io(error) => error.into(),
        }
    }

    fn note(&self, error: FileError) -> Noted {
        match error {
            FileError::Full(full) => {
                self.deny(&self.full(full));
                Noted::Code(match full.limit {
                    Limit::FileBytes => ErrorCode::FileTooLarge,
                    Limit::Bytes | Limit::Entries => ErrorCode::InsufficientSpace,
                })
            }
            FileError::ReadOnly => {
                self.deny(
                    "a file that came with the session is read-only: it is not written, moved, replaced or deleted, \
                     and neither are the directories it is in; write to another file",
                );
                Noted::Code(ErrorCode::NotPermitted)
            }
            FileError::Special => Noted::Code(ErrorCode::NotPermitted),
            FileError::Closed => {
                self.deny("the session was deleted, and its files with it");
                Noted::Code(ErrorCode::NotPermitted)
            }
            FileError::Io(error) => Noted::Io(error),
        }
    }

    fn full(&self, full: Full) -> String {
        let Full { limit, most } = full;
        match self.home {
            Home::Tmp => format!(
                "/tmp would pass its limit of {most} bytes; delete something there, write less, or raise `tmp` in \
                 `[limits]` of the manifest and the grant"
            ),
            Home::Workspace => {
                let key = match limit {
                    Limit::Bytes => "quota",
                    Limit::FileBytes => "file",
                    Limit::Entries => "entries",
                };
                format!(
                    "the session's files would pass their limit of {most} {}; delete something, write less, or have the \
                     operator raise `{key}` in `[files]`",
                    limit.counts()
                )
            }
        }
    }

    fn deny(&self, reason: &str) {
        self.log.deny(Denial::new(reason.to_owned()));
    }
}

enum Noted {
    Code(ErrorCode),
    Io(io::Error),
}

/// What the host functions work on.
pub(crate) struct FilesView<'a> {
    pub(crate) wasi: WasiFilesystemCtxView<'a>,
    pub(crate) files: &'a mut Files,
}

/// Names [`FilesView`] for the linker.
pub(crate) struct FilesData;

impl HasData for FilesData {
    type Data<'a> = FilesView<'a>;
}

fn open_workspace(plan: &WorkspacePlan) -> Result<Vec<Preopen>, FileError> {
    let entry = |dir: CapDir, guest_path: String, names: Option<Arc<[String]>>| Preopen {
        dir: preopen(dir, plan.perms),
        guest_path,
        place: Place {
            home: Home::Workspace,
            tree: Arc::clone(&plan.tree),
            names,
            file: None,
        },
    };
    let root = plan.tree.root();
    let Some(paths) = &plan.paths else {
        return Ok(vec![entry(root.try_clone()?, "/workspace".to_owned(), None)]);
    };
    let mut preopens = Vec::with_capacity(paths.len());
    // Several files of one folder share its preopen: a guest finds only one per path.
    let mut files: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for path in paths {
        let path = path.as_str();
        match open_folder(plan, path) {
            Folder::Open(dir) => preopens.push(entry(dir, format!("/workspace/{path}"), None)),
            Folder::IsFile => {
                let (folder, name) = path.rsplit_once('/').unwrap_or((".", path));
                files.entry(folder).or_default().push(name.to_owned());
            }
            // What cannot be made or leads elsewhere holds nothing that was granted.
            Folder::Unreachable => {}
        }
    }
    for (folder, names) in files {
        let (dir, guest_path) = match folder {
            "." => (root.try_clone()?, "/workspace".to_owned()),
            folder => match walk(root, folder) {
                Ok(dir) => (dir, format!("/workspace/{folder}")),
                Err(_) => continue,
            },
        };
        preopens.push(entry(dir, guest_path, Some(names.into())));
    }
    Ok(preopens)
}

enum Folder {
    Open(CapDir),
    IsFile,
    Unreachable,
}

/// The folder at `path`, unless `path` is that of a file.
///
/// What does not exist yet is a file if its name has an extension, else a folder, which is made if the
/// guest may write.
fn open_folder(plan: &WorkspacePlan, path: &str) -> Folder {
    let root = plan.tree.root();
    let error = match walk(root, path) {
        Ok(dir) => return Folder::Open(dir),
        Err(error) => error,
    };
    let is_new = error.kind() == io::ErrorKind::NotFound;
    if is_new && plan.perms == FsPerms::ReadWrite {
        let name = Path::new(path);
        let folder = match name.extension() {
            None => Some(name),
            Some(_) => name.parent().filter(|folder| !folder.as_os_str().is_empty()),
        };
        // Whatever keeps it from being made keeps what is in it from being made, too.
        let made = folder.and_then(Path::to_str).map(|folder| make(&plan.tree, folder));
        if name.extension().is_none() {
            return match made {
                Some(Ok(dir)) => Folder::Open(dir),
                _ => Folder::Unreachable,
            };
        }
    }
    match root.symlink_metadata(path) {
        Ok(found) if !found.is_file() => Folder::Unreachable,
        _ => Folder::IsFile,
    }
}

/// Opens a folder part by part, and no link on the way.
// THREAT[T-box-prefix-escape]: a guest that may write beside a granted folder could put a link in its place.
fn walk(root: &CapDir, path: &str) -> io::Result<CapDir> {
    let mut here = root.try_clone()?;
    for part in path.split('/') {
        here = open_dir_itself(&here, part)?;
    }
    Ok(here)
}

fn make(tree: &Tree, path: &str) -> Result<CapDir, FileError> {
    let mut here = tree.root().try_clone()?;
    for part in path.split('/') {
        match tree.create_dir(&here, part) {
            Err(FileError::Io(error)) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
        here = open_dir_itself(&here, part)?;
    }
    Ok(here)
}

/// Tells wasmtime-wasi not to look for a blocking thread: it is asked on one.
const IN_PLACE: bool = true;

fn preopen(dir: CapDir, perms: FsPerms) -> Dir {
    Dir::new(dir.into_std_file(), perms, mode(perms), IN_PLACE)
}

fn mode(perms: FsPerms) -> OpenMode {
    match perms {
        FsPerms::ReadOnly => OpenMode::READ,
        FsPerms::ReadWrite => OpenMode::READ | OpenMode::WRITE,
    }
}
