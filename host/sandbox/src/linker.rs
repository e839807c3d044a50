//! What guests may import. Built once per engine; linking gives no authority.

use crate::{
    ambient,
    bindings::{fumehood::tool, wasi::keyvalue},
    configuration,
    files::{FilesData, PREOPENS},
    logging,
    state::CallState,
};
use wasmtime::{
    Engine, StoreContextMut,
    component::{HasSelf, Linker},
};
use wasmtime_wasi::p2::bindings::filesystem;

/// The interfaces that are linked, without their versions: for telling what is missing.
const INTERFACES: &[&str] = &[
    "fumehood:tool/types",
    "fumehood:tool/progress",
    "fumehood:tool/secrets",
    "fumehood:tool/peers",
    "fumehood:tool/jobs",
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:config/store",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:http/outgoing-handler",
    "wasi:http/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:keyvalue/store",
    "wasi:logging/logging",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

/// Whether some version of the interface is linked.
pub(crate) fn is_linked(import: &str) -> bool {
    let name = import.split_once('@').map_or(import, |(name, _)| name);
    INTERFACES.contains(&name)
}

pub(crate) fn linker(engine: &Engine) -> wasmtime::Result<Linker<CallState>> {
    let mut linker = Linker::new(engine);
    // WASI whole. Sockets answer "access denied" for every address: no check is installed.
    // THREAT[T-net-raw-socket]
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;

    // Files are ours: opened late, and with a quota. So are waits, which move clocks that are set.
    linker.allow_shadowing(true);
    linker.instance(PREOPENS)?.func_wrap_async(
        "get-directories",
        |mut store: StoreContextMut<'_, CallState>, ()| {
            Box::new(async move { Ok((store.data_mut().filesystem_view().preopens().await?,)) })
        },
    )?;
    filesystem::types::add_to_linker::<_, FilesData>(&mut linker, CallState::filesystem_view)?;
    ambient::add_to_linker(&mut linker)?;
    linker.allow_shadowing(false);

    tool::types::add_to_linker::<_, HasSelf<CallState>>(&mut linker, |state| state)?;
    tool::progress::add_to_linker::<_, HasSelf<CallState>>(&mut linker, |state| state)?;
    tool::secrets::add_to_linker::<_, HasSelf<CallState>>(&mut linker, |state| state)?;
    tool::peers::add_to_linker::<_, HasSelf<CallState>>(&mut linker, |state| state)?;
    tool::jobs::add_to_linker::<_, HasSelf<CallState>>(&mut linker, |state| state)?;
    keyvalue::store::add_to_linker::<_, HasSelf<CallState>>(&mut linker, |state| state)?;
    configuration::add_to_linker(&mut linker)?;
    logging::add_to_linker(&mut linker)?;
    Ok(linker)
}
