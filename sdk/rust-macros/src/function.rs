//! Reads the annotated function: what it is called, what it says, what it takes and gives.

use crate::options::Options;
use proc_macro2::TokenTree;
use quote::ToTokens as _;
use syn::{
    Attribute, Expr, ExprLit, FnArg, GenericArgument, Ident, Item, ItemFn, Lit, Meta, Pat, PatType, PathArguments,
    ReturnType, Type, spanned::Spanned as _,
};

/// A function that can be a tool.
pub(crate) struct ToolFunction {
    /// The function without the attributes on its parameters, which only a macro may read.
    pub(crate) item: ItemFn,
    pub(crate) options: Options,
    /// The tool's name: the `name` option, else the function's.
    pub(crate) name: String,
    /// The doc comment.
    pub(crate) description: String,
    pub(crate) context: Context,
    pub(crate) arguments: Arguments,
    pub(crate) returns: Returns,
}

/// Whether the function takes the call as its first parameter, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Context {
    None,
    Borrowed,
    Owned,
}

/// Where the call's JSON object goes.
pub(crate) enum Arguments {
    /// One parameter for each member.
    Fields(Vec<Field>),
    /// The object as a whole, in the type of the only parameter.
    Whole(Box<Type>),
}

/// A parameter, with the attributes that describe it (`doc`, `serde`, `schemars`).
pub(crate) struct Field {
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) name: Ident,
    pub(crate) of: Type,
}

/// What the function returns.
pub(crate) enum Returns {
    Plain(Box<Type>),
    /// The type of the good case, and the word `Result`; the error converts into `Failure`.
    Fallible {
        good: Box<Type>,
        result: Ident,
    },
}

impl ToolFunction {
    pub(crate) fn new(item: Item, options: Options) -> syn::Result<Self> {
        let Item::Fn(mut item) = item else {
            return Err(syn::Error::new_spanned(
                first_word(&item),
                "`#[fumehood::tool]` goes on a free function",
            ));
        };
        check_signature(&item)?;
        let description = description(&item.attrs);
        if description.is_empty() {
            return Err(syn::Error::new(
                item.sig.ident.span(),
                "a tool needs a doc comment: it is what the model reads to decide when to use the tool",
            ));
        }
        let name = name(&item, &options)?;
        let mut parameters = Vec::new();
        for input in &mut item.sig.inputs {
            match input {
                FnArg::Receiver(receiver) => {
                    return Err(syn::Error::new_spanned(
                        &*receiver,
                        "a tool is a free function: it cannot take `self`",
                    ));
                }
                FnArg::Typed(parameter) => parameters.push(take_parameter(parameter)?),
            }
        }
        let context = take_context(&mut parameters);
        let arguments = arguments(parameters)?;
        let returns = returns(&item.sig.output);
        Ok(Self {
            item,
            options,
            name,
            description,
            context,
            arguments,
            returns,
        })
    }
}

/// The item's first token behind its attributes and doc comments.
fn first_word(item: &Item) -> Option<TokenTree> {
    let mut tokens = item.to_token_stream().into_iter();
    let mut token = tokens.next();
    while matches!(&token, Some(TokenTree::Punct(mark)) if mark.as_char() == '#') {
        // What stands in its brackets is passed over, too.
        token = tokens.nth(1);
    }
    token
}

struct Parameter {
    field: Field,
    whole: bool,
}

fn check_signature(item: &ItemFn) -> syn::Result<()> {
    let signature = &item.sig;
    if let Some(token) = &signature.asyncness {
        return Err(syn::Error::new(
            token.span(),
            "a tool cannot be `async`: each call has an instance of its own, so simply block",
        ));
    }
    if let Some(token) = &signature.unsafety {
        return Err(syn::Error::new(token.span(), "a tool cannot be `unsafe`"));
    }
    if let Some(token) = &signature.abi {
        return Err(syn::Error::new(token.span(), "a tool cannot be `extern`"));
    }
    if !signature.generics.params.is_empty() {
        return Err(syn::Error::new_spanned(
            &signature.generics,
            "a tool cannot be generic: its JSON Schema needs concrete types",
        ));
    }
    Ok(())
}

fn name(item: &ItemFn, options: &Options) -> syn::Result<String> {
    let (name, span) = match &options.name {
        Some(literal) => (literal.value(), literal.span()),
        None => (unraw(&item.sig.ident), item.sig.ident.span()),
    };
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if (1..=64).contains(&name.len()) && name.bytes().all(good) {
        Ok(name)
    } else {
        Err(syn::Error::new(
            span,
            "a tool's name has 1 to 64 lower-case letters, digits and underscores: rename the function or give `name = \"…\"`",
        ))
    }
}

fn unraw(ident: &Ident) -> String {
    let text = ident.to_string();
    text.strip_prefix("r#").map(str::to_owned).unwrap_or(text)
}

/// The text of a doc comment: common indentation and outer blank lines removed.
fn description(attributes: &[Attribute]) -> String {
    let mut lines = Vec::new();
    for attribute in attributes {
        if let Meta::NameValue(pair) = &attribute.meta
            && pair.path.is_ident("doc")
            && let Expr::Lit(ExprLit {
                lit: Lit::Str(text), ..
            }) = &pair.value
        {
            lines.extend(text.value().split('\n').map(|line| line.trim_end().to_owned()));
        }
    }
    let indent = lines
        .iter()
        .filter(|line| !line.is_empty())
        .map(|line| line.len() - line.trim_start().len())
        .min();
    let indent = indent.unwrap_or(0);
    let lines: Vec<&str> = lines.iter().map(|line| line.get(indent..).unwrap_or("")).collect();
    lines.join("\n").trim().to_owned()
}

/// Takes what describes the parameter off the function, where the compiler would refuse it.
fn take_parameter(parameter: &mut PatType) -> syn::Result<Parameter> {
    let mut whole = false;
    let mut attributes = Vec::new();
    for attribute in std::mem::take(&mut parameter.attrs) {
        if attribute.path().is_ident("arguments") {
            whole = true;
        } else if ["doc", "serde", "schemars"]
            .iter()
            .any(|known| attribute.path().is_ident(known))
        {
            attributes.push(attribute);
        } else {
            parameter.attrs.push(attribute);
        }
    }
    let Pat::Ident(pattern) = &*parameter.pat else {
        return Err(syn::Error::new_spanned(
            &parameter.pat,
            "a tool's parameter needs a plain name, which becomes the argument's name: take it apart in the body",
        ));
    };
    if pattern.by_ref.is_some() || pattern.subpat.is_some() {
        return Err(syn::Error::new_spanned(
            pattern,
            "a tool's parameter needs a plain name",
        ));
    }
    let of = (*parameter.ty).clone();
    if let Type::ImplTrait(_) = of {
        return Err(syn::Error::new_spanned(
            of,
            "a tool's parameter needs a concrete type, not `impl Trait`",
        ));
    }
    Ok(Parameter {
        field: Field {
            attributes,
            name: pattern.ident.clone(),
            of,
        },
        whole,
    })
}

fn take_context(parameters: &mut Vec<Parameter>) -> Context {
    let context = match parameters.first() {
        None => Context::None,
        Some(first) => match &first.field.of {
            Type::Reference(reference) if is_named(&reference.elem, "Call") && reference.mutability.is_none() => {
                Context::Borrowed
            }
            of if is_named(of, "Call") => Context::Owned,
            _ => Context::None,
        },
    };
    if context != Context::None {
        parameters.remove(0);
    }
    context
}

fn arguments(mut parameters: Vec<Parameter>) -> syn::Result<Arguments> {
    for parameter in &parameters {
        let Field { of, .. } = &parameter.field;
        if is_named(of, "Call") || matches!(of, Type::Reference(r) if is_named(&r.elem, "Call")) {
            return Err(syn::Error::new_spanned(
                of,
                "the call comes first: write `call: &Call` as the first parameter",
            ));
        }
        if let Type::Reference(_) = of {
            return Err(syn::Error::new_spanned(
                of,
                "a tool's parameter is read from JSON, so it must be owned: write `String` for `&str`, `Vec<T>` for `&[T]`",
            ));
        }
    }
    if !parameters.iter().any(|parameter| parameter.whole) {
        return Ok(Arguments::Fields(
            parameters.into_iter().map(|parameter| parameter.field).collect(),
        ));
    }
    match (parameters.pop(), parameters.pop()) {
        (Some(only), None) => Ok(Arguments::Whole(Box::new(only.field.of))),
        (last, _) => Err(syn::Error::new(
            last.map_or_else(proc_macro2::Span::call_site, |parameter| parameter.field.name.span()),
            "a parameter marked `#[arguments]` takes all arguments: it must be the only one besides the call",
        )),
    }
}

fn returns(output: &ReturnType) -> Returns {
    let ReturnType::Type(_, of) = output else {
        return Returns::Plain(Box::new(syn::parse_quote!(())));
    };
    if let Type::Path(path) = &**of
        && let Some(last) = path.path.segments.last()
        && last.ident == "Result"
        && let PathArguments::AngleBracketed(generics) = &last.arguments
        && let Some(GenericArgument::Type(good)) = generics.args.first()
    {
        return Returns::Fallible {
            good: Box::new(good.clone()),
            result: last.ident.clone(),
        };
    }
    Returns::Plain(of.clone())
}

fn is_named(of: &Type, name: &str) -> bool {
    matches!(of, Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == name && last.arguments.is_none()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(source: &str) -> syn::Result<ToolFunction> {
        ToolFunction::new(syn::parse_str(source).unwrap(), Options::default())
    }

    fn error(source: &str) -> String {
        read(source).err().expect("must be refused").to_string()
    }

    #[test]
    fn the_doc_comment_becomes_the_description() {
        let tool = read("/// Adds.\n///\n///  - twice\n/// as much\nfn add(a: f64) -> f64 { a }").unwrap();
        assert_eq!(tool.description, "Adds.\n\n - twice\nas much");
        let block = read("/** Adds. */ fn add() {}").unwrap();
        assert_eq!(block.description, "Adds.");
    }

    #[test]
    fn a_parameters_comment_and_attributes_are_kept_for_the_schema() {
        let tool = read("/// Adds.\nfn add(/** first */ #[serde(default)] a: f64, b: Option<f64>) {}").unwrap();
        let Arguments::Fields(fields) = &tool.arguments else {
            panic!("fields expected")
        };
        assert_eq!(fields.len(), 2);
        assert_eq!(fields[0].attributes.len(), 2);
        assert!(
            tool.item
                .sig
                .inputs
                .iter()
                .all(|input| matches!(input, FnArg::Typed(p) if p.attrs.is_empty()))
        );
    }

    #[test]
    fn the_call_may_come_first_and_is_no_argument() {
        let tool = read("/// X.\nfn x(call: &fumehood::Call, a: u8) {}").unwrap();
        assert_eq!(tool.context, Context::Borrowed);
        assert!(matches!(&tool.arguments, Arguments::Fields(fields) if fields.len() == 1));
        assert!(error("/// X.\nfn x(a: u8, call: &Call) {}").contains("comes first"));
    }

    #[test]
    fn one_parameter_may_take_all_arguments() {
        let tool = read("/// X.\nfn x(call: &Call, #[arguments] all: Input) {}").unwrap();
        assert!(matches!(tool.arguments, Arguments::Whole(_)));
        assert!(error("/// X.\nfn x(#[arguments] all: Input, b: u8) {}").contains("only one"));
    }

    #[test]
    fn what_cannot_be_a_tool_is_refused_with_a_reason() {
        assert!(error("fn x() {}").contains("doc comment"));
        assert!(error("/// X.\nasync fn x() {}").contains("async"));
        assert!(error("/// X.\nunsafe fn x() {}").contains("unsafe"));
        assert!(error("/// X.\nfn x<T>(a: T) {}").contains("generic"));
        assert!(error("/// X.\nfn x(a: impl Display) {}").contains("concrete"));
        assert!(error("/// X.\nfn x((a, b): (u8, u8)) {}").contains("plain name"));
        assert!(error("/// X.\nfn x(a: &str) {}").contains("String"));
        assert!(error("/// X.\nfn x(&self) {}").contains("self"));
        assert!(error("/// X.\n#[allow(non_snake_case)] fn Xyz() {}").contains("lower-case"));
        assert!(error("/// X.\nstruct X;").contains("free function"));
    }

    #[test]
    fn a_result_gives_its_good_type() {
        let good = |source| match read(source).unwrap().returns {
            Returns::Fallible { good, .. } => quote::quote!(#good).to_string(),
            Returns::Plain(of) => format!("plain {}", quote::quote!(#of)),
        };
        assert_eq!(good("/// X.\nfn x() -> Result<u8, E> { todo!() }"), "u8");
        assert_eq!(good("/// X.\nfn x() -> fumehood::Result<u8> { todo!() }"), "u8");
        assert_eq!(good("/// X.\nfn x() -> u8 { 1 }"), "plain u8");
        assert_eq!(good("/// X.\nfn x() {}"), "plain ()");
    }
}
