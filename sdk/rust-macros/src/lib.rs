//! The attribute `#[fumehood::tool]`. Use it through the `fumehood` crate, which documents it.
//!
//! The attribute leaves the function as it is and adds a type of the same name that implements
//! `fumehood::Tool`. Everything that it cannot turn into a tool is a compile error that says what
//! to write instead.
#![forbid(unsafe_code)]

mod expand;
mod function;
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
