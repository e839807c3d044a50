//! A component that misbehaves: one tool for each thing that the host must withstand.
//!
//! The host's end-to-end tests are written against these names and arguments. Nothing here is an
//! example of how to write a tool.
#![forbid(unsafe_code)]
// Panics, endless loops and the like are what this component is for.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::infinite_loop,
    unconditional_recursion
)]

pub mod background;
pub mod compute;
pub mod files;
pub mod output;
pub mod outside;

fumehood::export!(
    compute::spin,
    compute::allocate,
    compute::grow_memory,
    compute::recurse,
    compute::panic_now,
    compute::unreachable,
    compute::exit,
    compute::many_host_calls,
    compute::sleep,
    compute::state_counter,
    compute::random,
    compute::env,
    compute::args,
    compute::stdin_read,
    compute::call_info,
    output::echo,
    output::flood_stdout,
    output::huge_output,
    output::progress_flood,
    output::deep_json,
    output::bad_output,
    output::bad_structured,
    output::fail,
    files::read_file,
    files::write_file,
    files::list_dir,
    files::tmp_fill,
    files::link_file,
    files::file_ops,
    outside::tcp_connect,
    outside::dns_lookup,
    outside::http_get,
    outside::http_get_many,
    outside::kv_get,
    outside::kv_set,
    outside::kv_delete,
    outside::kv_list,
    outside::kv_open,
    outside::secret_available,
    outside::secret_sign,
    outside::peer_call,
    outside::peer_again,
    outside::detach,
    background::bg_once,
    background::bg_again,
);
