//! Files for guests: `/workspace` as granted and a fresh `/tmp`, both opened only when the guest
//! first asks what there is, because most calls never do.
//!
//! Everything below a directory is resolved by wasmtime-wasi inside that directory: neither `..` nor
//! a symbolic link leads out. File operations run on the executor's blocking threads (67 µs for an
//! open, read and close against 35 µs in place), because a slow disk must not stall other calls.
//!
//! `/tmp` has a quota (see [`tmp`]). `/workspace` has none here: who keeps the workspace limits it.

mod host;
pub(crate) mod tmp;

use self::tmp::{Tmp, TmpRoot};
use crate::trap::HostFailed;
use cap_std::{ambient_authority, fs::Dir as CapDir};
use fumehood_policy::files::WorkspacePath;
use std::{
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
    preopens: Vec<(Dir, String)>,
    tmp: Option<Tmp>,
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
            self.opened = Some(Opened { preopens, tmp });
        }
        self.opened
            .as_mut()
            .ok_or_else(|| HostFailed::new("the session's files cannot be opened", &"not opened"))
    }

    fn tmp(&mut self) -> Option<&mut Tmp> {
        self.opened.as_mut()?.tmp.as_mut()
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

fn open_workspace(plan: &WorkspacePlan) -> std::io::Result<Vec<(Dir, String)>> {
    let root = CapDir::open_ambient_dir(&plan.dir, ambient_authority())?;
    let Some(paths) = &plan.paths else {
        return Ok(vec![(preopen(root, plan.perms), "/workspace".to_owned())]);
    };
    let mut preopens = Vec::with_capacity(paths.len());
    for path in paths {
        let path = path.as_str();
        // THREAT[T-box-escape-files]: opened below the workspace, so a link that a guest left there
        // does not lead out of it.
        match root.open_dir(path) {
            Ok(dir) => preopens.push((preopen(dir, plan.perms), format!("/workspace/{path}"))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && plan.perms == FsPerms::ReadWrite => {
                root.create_dir_all(path)?;
                preopens.push((preopen(root.open_dir(path)?, plan.perms), format!("/workspace/{path}")));
            }
            // What does not exist, is a file or leads outside cannot be read: it is not there.
            Err(error) => tracing::debug!(%error, path, "a granted path of the workspace is not a directory"),
        }
    }
    Ok(preopens)
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
