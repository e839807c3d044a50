//! The attribute `#[fumehood::tool]`, and the manifest that a component carries. Use them through the `fumehood` crate, which
//! documents them.
//!
//! The attribute leaves the function as it is and adds a type of the same name that implements
//! `fumehood::Tool`. Everything that it cannot turn into a tool is a compile error that says what
//! to write instead.
#![forbid(unsafe_code)]

mod expand;
mod function;
mod manifest;
mod options;

use proc_macro::TokenStream;
use syn::parse_macro_input;

/// Turns a function into a tool. See `fumehood::tool`.
#[proc_macro_attribute]
pub fn tool(options: TokenStream, item: TokenStream) -> TokenStream {
    let options = parse_macro_input!(options as options::Options);
    let item = parse_macro_input!(item as syn::Item);
    match function::ToolFunction::new(item, options) {
        Ok(function) => expand::expand(function).into(),
        Err(error) => error.into_compile_error().into(),
    }
}

/// The manifest of the crate that is compiled, as bytes: its `tool.toml`, with what that leaves out of `Cargo.toml`'s.
/// For `fumehood::export!` alone.
#[doc(hidden)]
#[proc_macro]
pub fn manifest(_: TokenStream) -> TokenStream {
    manifest::expand().into()
}
