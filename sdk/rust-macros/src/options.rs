//! What stands in the parentheses of `#[fumehood::tool(…)]`.

use proc_macro2::Span;
use syn::{Ident, LitStr, Token, parse::Parse, parse::ParseStream};

/// The options as written, each checked by itself.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) name: Option<LitStr>,
    pub(crate) title: Option<LitStr>,
    pub(crate) effect: Effect,
    pub(crate) hints: Vec<Hint>,
}

/// What a re-run would do; the default is the careful one.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    Pure,
    Idempotent,
    #[default]
    AtMostOnce,
}

/// What the tool says of itself to people and models.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hint {
    ReadOnly,
    Destructive,
    OpenWorld,
}

impl Options {
    pub(crate) fn has(&self, hint: Hint) -> bool {
        self.hints.contains(&hint)
    }

    fn take(&mut self, input: ParseStream<'_>) -> syn::Result<()> {
        let key: Ident = input.parse()?;
        match key.to_string().as_str() {
            "name" => self.name = Some(value(input, &key, self.name.is_some())?),
            "title" => self.title = Some(value(input, &key, self.title.is_some())?),
            "effect" => self.effect = effect(&value(input, &key, false)?)?,
            "read_only" => self.hint(Hint::ReadOnly, key.span())?,
            "destructive" => self.hint(Hint::Destructive, key.span())?,
            "open_world" => self.hint(Hint::OpenWorld, key.span())?,
            _ => {
                return Err(syn::Error::new(
                    key.span(),
                    "unknown option: use `name = \"…\"`, `title = \"…\"`, `effect = \"…\"`, `read_only`, `destructive` or `open_world`",
                ));
            }
        }
        Ok(())
    }

    fn hint(&mut self, hint: Hint, span: Span) -> syn::Result<()> {
        if self.has(hint) {
            return Err(syn::Error::new(span, "this option is given twice"));
        }
        self.hints.push(hint);
        if self.has(Hint::ReadOnly) && self.has(Hint::Destructive) {
            return Err(syn::Error::new(
                span,
                "a tool that is `read_only` cannot be `destructive`",
            ));
        }
        Ok(())
    }
}

impl Parse for Options {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let mut options = Self::default();
        while !input.is_empty() {
            options.take(input)?;
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(options)
    }
}

fn value(input: ParseStream<'_>, key: &Ident, given: bool) -> syn::Result<LitStr> {
    if given {
        return Err(syn::Error::new(key.span(), "this option is given twice"));
    }
    input
        .parse::<Token![=]>()
        .map_err(|_| syn::Error::new(key.span(), format!("write a text after this option: `{key} = \"…\"`")))?;
    input.parse()
}

fn effect(text: &LitStr) -> syn::Result<Effect> {
    match text.value().as_str() {
        "pure" => Ok(Effect::Pure),
        "idempotent" => Ok(Effect::Idempotent),
        "at-most-once" => Ok(Effect::AtMostOnce),
        _ => Err(syn::Error::new(
            text.span(),
            "unknown effect: use \"pure\" (changes nothing), \"idempotent\" (running it twice is like running it once) or \"at-most-once\" (the default)",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        syn::parse_str::<Options>(text)
            .err()
            .expect("must be refused")
            .to_string()
    }

    #[test]
    fn without_options_a_tool_is_at_most_once() {
        let options: Options = syn::parse_str("").unwrap();
        assert_eq!(options.effect, Effect::AtMostOnce);
        assert!(options.hints.is_empty());
    }

    #[test]
    fn every_option_is_understood() {
        let options: Options =
            syn::parse_str(r#"name = "a_b", title = "A", effect = "idempotent", open_world, destructive,"#).unwrap();
        assert_eq!(options.name.as_ref().unwrap().value(), "a_b");
        assert_eq!(options.title.as_ref().unwrap().value(), "A");
        assert_eq!(options.effect, Effect::Idempotent);
        assert!(options.has(Hint::Destructive) && options.has(Hint::OpenWorld) && !options.has(Hint::ReadOnly));
    }

    #[test]
    fn misspelt_doubled_and_contradictory_options_are_refused() {
        assert!(error("readonly").contains("unknown option"));
        assert!(error(r#"effect = "none""#).contains("unknown effect"));
        assert!(error("read_only, read_only").contains("twice"));
        assert!(error(r#"name = "a", name = "b""#).contains("twice"));
        assert!(error("read_only, destructive").contains("cannot be"));
        assert!(error("title").contains("write a text"));
    }
}
