//! Rust types and host traits for our own WIT package and for `wasi:keyvalue/store`, generated from
//! `wit/` at build time. The rest of WASI comes with `wasmtime-wasi` and `wasmtime-wasi-http`.
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]

wasmtime::component::bindgen!({
    path: "../../wit",
    inline: "
        package fumehood:host;
        world host {
            import fumehood:tool/types@0.1.0;
            import fumehood:tool/progress@0.1.0;
            import fumehood:tool/secrets@0.1.0;
            import fumehood:tool/peers@0.1.0;
            import fumehood:tool/jobs@0.1.0;
            import wasi:keyvalue/store@0.2.0-draft;
        }
    ",
    world: "fumehood:host/host",
    imports: {
        "fumehood:tool/progress.report": trappable,
        "fumehood:tool/progress.emit": trappable,
        "fumehood:tool/secrets.available": async | trappable,
        "fumehood:tool/secrets.sign": async | trappable,
        "fumehood:tool/peers.call": async | trappable,
        "fumehood:tool/jobs.detach": async | trappable,
        "wasi:keyvalue/store.open": trappable,
        "wasi:keyvalue/store.[drop]bucket": trappable,
        default: async | trappable,
    },
    with: {
        "wasi:keyvalue/store.bucket": crate::keyvalue::Bucket,
    },
    require_store_data_send: true,
});
