//! Files for guests: `/workspace` as granted and a fresh `/tmp`, both opened only when the guest
//! first asks what there is, because most calls never do.
//!
//! Everything below a directory is resolved by wasmtime-wasi inside that directory: neither `..` nor
//! a symbolic link leads out. File operations run on the executor's blocking threads (67 µs for an
//! open, read and close against 35 µs in place), because a slow disk must not stall other calls.
//!
//! A grant of paths opens those folders alone. A grant of a single file opens the folder it lies in,
//! restricted to that name: everything else in it answers `access`, and links are not followed.
//!
//! `/tmp` has a quota (see [`tmp`]). `/workspace` has none here: who keeps the workspace limits it.

mod host;
pub(crate) mod tmp;

use self::tmp::{Tmp, TmpRoot};
use crate::trap::HostFailed;
use cap_std::{ambient_authority, fs::Dir as CapDir};
use fumehood_policy::files::WorkspacePath;
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
};
use wasmtime::component::{HasData, ResourceTable};
use wasmtime_wasi::{
    FsPerms, OpenMode,
    filesystem::{Descriptor, Dir, WasiFilesystemCtxView},
};

/// What the guest may see of the workspace.
#[derive(Debug, Clone)]
pub(crate) struct WorkspacePlan {
    pub(crate) dir: PathBuf,
    pub(crate) perms: FsPerms,
    /// Paths below the workspace, or all of it.
    pub(crate) paths: Option<Vec<WorkspacePath>>,
}

/// The files of one call.
pub(crate) struct Files {
    workspace: Option<WorkspacePlan>,
    tmp_quota: u64,
    tmp_root: Arc<TmpRoot>,
    opened: Option<Opened>,
}

struct Opened {
    /// Without `/tmp`.
    preopens: Vec<Preopen>,
    /// The guest's descriptors that are restricted to some names.
    restricted: HashMap<u32, Arc<[String]>>,
    tmp: Option<Tmp>,
}

struct Preopen {
    dir: Dir,
    guest_path: String,
    reach: Reach,
}

/// How far a preopened directory goes.
#[derive(Clone)]
enum Reach {
    Everything,
    /// These entries only.
    Names(Arc<[String]>),
}

impl Files {
    pub(crate) fn new(workspace: Option<WorkspacePlan>, tmp_quota: u64, tmp_root: Arc<TmpRoot>) -> Self {
        Self {
            workspace,
            tmp_quota,
            tmp_root,
            opened: None,
        }
    }

    fn open(&mut self) -> Result<&mut Opened, HostFailed> {
        if self.opened.is_none() {
            let preopens = match &self.workspace {
                Some(plan) => open_workspace(plan)
                    .map_err(|error| HostFailed::new("the session's files cannot be opened", &error))?,
                None => Vec::new(),
            };
            let tmp = match self.tmp_quota {
                0 => None,
                quota => Some(
                    Tmp::create(&self.tmp_root, quota)
                        .map_err(|error| HostFailed::new("no temporary directory can be made", &error))?,
                ),
            };
            self.opened = Some(Opened {
                preopens,
                restricted: HashMap::new(),
                tmp,
            });
        }
        self.opened
            .as_mut()
            .ok_or_else(|| HostFailed::new("the session's files cannot be opened", &"not opened"))
    }

    fn tmp(&mut self) -> Option<&mut Tmp> {
        self.opened.as_mut()?.tmp.as_mut()
    }

    /// The names that the descriptor is restricted to.
    fn names(&self, descriptor: u32) -> Option<&[String]> {
        self.opened.as_ref()?.restricted.get(&descriptor).map(|names| &**names)
    }

    fn forget(&mut self, descriptor: u32) {
        if let Some(opened) = &mut self.opened {
            opened.restricted.remove(&descriptor);
            if let Some(tmp) = &mut opened.tmp {
                tmp.remove(descriptor);
            }
        }
    }
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

fn open_workspace(plan: &WorkspacePlan) -> std::io::Result<Vec<Preopen>> {
    let root = CapDir::open_ambient_dir(&plan.dir, ambient_authority())?;
    let Some(paths) = &plan.paths else {
        return Ok(vec![Preopen {
            dir: preopen(root, plan.perms),
            guest_path: "/workspace".to_owned(),
            reach: Reach::Everything,
        }]);
    };
    let mut preopens = Vec::with_capacity(paths.len());
    // Several files of one folder share its preopen: a guest finds only one per path.
    let mut files: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for path in paths {
        let path = path.as_str();
        match open_folder(&root, path, plan.perms)? {
            Some(dir) => preopens.push(Preopen {
                dir: preopen(dir, plan.perms),
                guest_path: format!("/workspace/{path}"),
                reach: Reach::Everything,
            }),
            None => {
                let (folder, name) = path.rsplit_once('/').unwrap_or((".", path));
                files.entry(folder).or_default().push(name.to_owned());
            }
        }
    }
    for (folder, names) in files {
        // What does not exist or leads outside holds nothing to be granted.
        if let Ok(dir) = root.open_dir(folder) {
            let guest_path = if folder == "." {
                "/workspace".to_owned()
            } else {
                format!("/workspace/{folder}")
            };
            preopens.push(Preopen {
                dir: preopen(dir, plan.perms),
                guest_path,
                reach: Reach::Names(names.into()),
            });
        }
    }
    Ok(preopens)
}

/// The folder at `path`, or `None` when `path` is that of a file.
///
/// What does not exist yet is a file if its name has an extension, else a folder, which is made if the
/// guest may write.
// THREAT[T-box-escape-files]: opened below the workspace, so a link that a guest left there does not
// lead out of it.
fn open_folder(root: &CapDir, path: &str, perms: FsPerms) -> std::io::Result<Option<CapDir>> {
    let error = match root.open_dir(path) {
        Ok(dir) => return Ok(Some(dir)),
        Err(error) => error,
    };
    let new = error.kind() == std::io::ErrorKind::NotFound && Path::new(path).extension().is_none();
    if new && perms == FsPerms::ReadWrite {
        root.create_dir_all(path)?;
        return root.open_dir(path).map(Some);
    }
    if perms == FsPerms::ReadWrite
        && let Some(folder) = Path::new(path).parent().filter(|folder| !folder.as_os_str().is_empty())
    {
        // Whatever keeps it from being made keeps the file from being made, too.
        let _ = root.create_dir_all(folder);
    }
    Ok(None)
}

fn preopen(dir: CapDir, perms: FsPerms) -> Dir {
    let mode = match perms {
        FsPerms::ReadOnly => OpenMode::READ,
        FsPerms::ReadWrite => OpenMode::READ | OpenMode::WRITE,
    };
    Dir::new(dir.into_std_file(), perms, mode, false)
}

fn open_ambient(path: &Path, perms: FsPerms) -> std::io::Result<Dir> {
    Ok(preopen(CapDir::open_ambient_dir(path, ambient_authority())?, perms))
}

/// Puts a directory into the guest's table.
fn push(table: &mut ResourceTable, dir: Dir) -> wasmtime::Result<wasmtime::component::Resource<Descriptor>> {
    Ok(table.push(Descriptor::Dir(dir))?)
}
