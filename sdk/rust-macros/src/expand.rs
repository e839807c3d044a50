//! Writes the implementation of `fumehood::Tool`.

use crate::{
    function::{Arguments, Context, Field, Returns, ToolFunction},
    options::{Effect, Hint},
};
use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::{Ident, spanned::Spanned};

/// The function, and a type of the same name beside it. A type and a function may share a name,
/// so that whoever imports the function has the tool.
pub(crate) fn expand(tool: ToolFunction) -> TokenStream {
    let ToolFunction {
        item,
        options,
        name,
        description,
        context,
        arguments,
        returns,
    } = tool;
    let function = &item.sig.ident;
    let visibility = &item.vis;
    let title = match &options.title {
        Some(title) => quote!(::core::option::Option::Some(#title)),
        None => quote!(::core::option::Option::None),
    };
    let effect = match options.effect {
        Effect::Pure => quote!(Pure),
        Effect::Idempotent => quote!(Idempotent),
        Effect::AtMostOnce => quote!(AtMostOnce),
    };
    let read_only = options.has(Hint::ReadOnly);
    let destructive = options.has(Hint::Destructive);
    let open_world = options.has(Hint::OpenWorld);
    let (declared, arguments_type, passed) = expand_arguments(function, &arguments);
    let read_arguments = match &arguments {
        Arguments::Whole(of) => {
            quote_spanned!(beside(of)=> ::fumehood::__private::read_arguments::<#of>(__arguments)?)
        }
        Arguments::Fields(_) => quote!(::fumehood::__private::read_arguments(__arguments)?),
    };
    let context = match context {
        Context::None => quote!(),
        Context::Borrowed => quote!(__call,),
        Context::Owned => quote!(::core::clone::Clone::clone(__call),),
    };
    let reply = quote!(#function(#context #passed));
    let (good, reply) = match &returns {
        Returns::Plain(of) => (of, reply),
        Returns::Fallible { good, result } => (
            good,
            quote_spanned!(beside(result)=> #reply.map_err(::core::convert::Into::<::fumehood::Failure>::into)?),
        ),
    };
    let probe = quote_spanned!(beside(good)=> (&&&&::fumehood::__private::reply::Probe::<#good>::new()));
    let output_schema = quote_spanned!(beside(good)=> #probe.output_schema());
    let output_of = quote_spanned!(beside(good)=> #probe.output_of(__reply));
    let choices = quote! {
        #[allow(unused_imports)]
        use ::fumehood::__private::reply::{ReplyAsIs as _, ReplyToNobody as _, ReplyWithSchema as _, ReplyWithoutSchema as _};
    };
    quote! {
        // Arguments are read from JSON, so they arrive owned whether the function needs that or not.
        #[allow(clippy::needless_pass_by_value)]
        #item

        #[doc(hidden)]
        #[allow(non_camel_case_types, missing_docs, unreachable_pub, clippy::empty_structs_with_brackets)]
        #visibility struct #function {}

        #[allow(clippy::needless_pass_by_value, clippy::unit_arg, clippy::let_unit_value)]
        const _: () = {
            #declared

            impl ::fumehood::Tool for #function {
                const NAME: &'static str = #name;

                fn definition() -> ::fumehood::Definition {
                    #choices
                    ::fumehood::__private::define(::fumehood::__private::About {
                        name: #name,
                        title: #title,
                        description: #description,
                        effect: ::fumehood::Effect::#effect,
                        read_only: #read_only,
                        destructive: #destructive,
                        open_world: #open_world,
                        input_schema: ::fumehood::__private::schema::of_arguments::<#arguments_type>(),
                        output_schema: #output_schema,
                    })
                }

                fn call(
                    __call: &::fumehood::Call,
                    __arguments: &str,
                ) -> ::core::result::Result<::fumehood::Output, ::fumehood::Failure> {
                    #choices
                    let __arguments: #arguments_type = #read_arguments;
                    let __reply = #reply;
                    #output_of
                }
            }
        };
    }
}

/// A type for the arguments if the function has none of its own, its name, and how to hand it over.
fn expand_arguments(function: &Ident, arguments: &Arguments) -> (TokenStream, TokenStream, TokenStream) {
    match arguments {
        Arguments::Whole(of) => (quote!(), quote!(#of), quote!(__arguments)),
        Arguments::Fields(fields) => {
            let members = fields
                .iter()
                .map(|Field { attributes, name, of }| quote!(#(#attributes)* #name: #of));
            let passed = fields.iter().map(|Field { name, .. }| quote!(__arguments.#name));
            // What is said of the whole, and of none of its fields, stands at the function's name.
            let derived = quote_spanned! {beside(function)=>
                #[derive(::fumehood::__private::serde::Deserialize, ::fumehood::__private::schemars::JsonSchema)]
            };
            let declared = quote! {
                #derived
                #[serde(crate = "::fumehood::__private::serde", deny_unknown_fields)]
                #[schemars(crate = "::fumehood::__private::schemars")]
                #[allow(non_camel_case_types)]
                struct __Arguments { #(#members),* }
            };
            (declared, quote!(__Arguments), quote!(#(#passed),*))
        }
    }
}

/// Where `written` stands, for what is generated about it: errors point there. The names in it are still this
/// macro's own, and lints see that nobody wrote it.
fn beside(written: &impl Spanned) -> Span {
    Span::call_site().located_at(written.span())
}
