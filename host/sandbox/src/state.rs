//! What one call owns: the data of its store.

use crate::{
    ambient::ClocksView,
    files::{Files, FilesView},
    http::HttpHooks,
    meter::Meter,
    ports::Ports,
    stdio::CallLog,
};
use fumehood_policy::authority::Authority;
use std::sync::Arc;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView, clocks::WasiClocksCtxView, filesystem::WasiFilesystemCtxView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

/// The state of one call. Nothing in it survives the call.
// THREAT[T-box-state-leak]
pub(crate) struct CallState {
    pub(crate) meter: Meter,
    pub(crate) authority: Arc<Authority>,
    pub(crate) ports: Ports,
    pub(crate) log: Arc<CallLog>,
    pub(crate) table: ResourceTable,
    pub(crate) wasi: WasiCtx,
    pub(crate) http: WasiHttpCtx,
    pub(crate) hooks: HttpHooks,
    pub(crate) files: Files,
}

impl WasiView for CallState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for CallState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut self.hooks,
            table: &mut self.table,
            ctx: &mut self.http,
        }
    }
}

impl CallState {
    pub(crate) fn clocks_view(&mut self) -> ClocksView<'_> {
        ClocksView {
            wasi: WasiClocksCtxView {
                ctx: self.wasi.clocks(),
                table: &mut self.table,
            },
            ambient: self.ports.ambient.as_ref(),
            witness: self.ports.witness.as_ref(),
        }
    }

    pub(crate) fn filesystem_view(&mut self) -> FilesView<'_> {
        FilesView {
            wasi: WasiFilesystemCtxView {
                ctx: self.wasi.filesystem(),
                table: &mut self.table,
            },
            files: &mut self.files,
        }
    }
}
