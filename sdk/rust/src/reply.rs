//! Turns what a tool's function returns into an [`Output`], and its type into an output schema.
//!
//! A text is text, an `Output` is itself, and any other value is JSON; which of these holds is
//! decided by the type. Traits alone cannot say "serialisable but not text", so the macro calls
//! a method on a reference with more references than it needs, and method lookup finds the first
//! of the traits that applies. The last one applies to everything else, and does not compile: the
//! error says what a tool may return.

use crate::{Content, Failure, Output, schema};
use schemars::JsonSchema;
use serde::Serialize;
use std::{borrow::Cow, marker::PhantomData};

/// Stands for the type of a reply.
pub struct Probe<T>(PhantomData<fn() -> T>);

impl<T> Default for Probe<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Probe<T> {
    /// The probe for `T`.
    #[must_use]
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

/// A type that says itself what the result is.
pub trait AsIs {
    /// The result.
    fn into_output(self) -> Output;
}

impl AsIs for Output {
    fn into_output(self) -> Output {
        self
    }
}

impl AsIs for Content {
    fn into_output(self) -> Output {
        Output::new(self)
    }
}

impl AsIs for Vec<Content> {
    fn into_output(self) -> Output {
        Output {
            content: self,
            ..Output::default()
        }
    }
}

impl AsIs for () {
    fn into_output(self) -> Output {
        Output::default()
    }
}

macro_rules! texts {
    ($($text:ty),*) => {$(
        impl AsIs for $text {
            fn into_output(self) -> Output {
                Output::new(String::from(self))
            }
        }
    )*};
}
texts!(String, &'static str, Cow<'static, str>, Box<str>);

impl From<Output> for Vec<Content> {
    fn from(output: Output) -> Self {
        output.content
    }
}

/// First choice: the type says itself what the result is.
pub trait ReplyAsIs<T> {
    /// No schema: the result is not structured.
    fn output_schema(&self) -> Option<String> {
        None
    }

    /// The result.
    ///
    /// # Errors
    /// Never.
    fn output_of(&self, reply: T) -> Result<Output, Failure>;
}

impl<T: AsIs> ReplyAsIs<T> for &&&Probe<T> {
    fn output_of(&self, reply: T) -> Result<Output, Failure> {
        Ok(reply.into_output())
    }
}

/// Second choice: a value whose shape is known.
pub trait ReplyWithSchema<T> {
    /// The schema, if it is that of an object.
    fn output_schema(&self) -> Option<String>;

    /// The result.
    ///
    /// # Errors
    /// When the value cannot be written as JSON.
    fn output_of(&self, reply: T) -> Result<Output, Failure>;
}

impl<T: Serialize + JsonSchema> ReplyWithSchema<T> for &&Probe<T> {
    fn output_schema(&self) -> Option<String> {
        schema::of_output::<T>()
    }

    fn output_of(&self, reply: T) -> Result<Output, Failure> {
        json(&reply)
    }
}

/// Third choice: a value of unknown shape.
pub trait ReplyWithoutSchema<T> {
    /// None.
    fn output_schema(&self) -> Option<String> {
        None
    }

    /// The result.
    ///
    /// # Errors
    /// When the value cannot be written as JSON.
    fn output_of(&self, reply: T) -> Result<Output, Failure>;
}

impl<T: Serialize> ReplyWithoutSchema<T> for &Probe<T> {
    fn output_of(&self, reply: T) -> Result<Output, Failure> {
        json(&reply)
    }
}

/// What a tool may return. No type has it: those that may be returned are found before anybody asks.
#[diagnostic::on_unimplemented(
    message = "a tool cannot return `{Self}`",
    label = "neither text, nor `Output`, nor something that is written as JSON",
    note = "derive `serde::Serialize` for the types in it, and `schemars::JsonSchema` if programs are to know its fields; or return a `String` or an `Output`"
)]
pub trait Returnable {}

/// Last choice: anything else, which does not compile.
pub trait ReplyToNobody<T> {
    /// None.
    fn output_schema(&self) -> Option<String> {
        None
    }

    /// Nothing.
    ///
    /// # Errors
    /// Always.
    fn output_of(&self, reply: T) -> Result<Output, Failure>
    where
        T: Returnable;
}

impl<T> ReplyToNobody<T> for Probe<T> {
    fn output_of(&self, _: T) -> Result<Output, Failure>
    where
        T: Returnable,
    {
        Err(Failure::failed("the tool returns what cannot be a result"))
    }
}

/// A value as JSON; an object also for programs.
fn json<T: Serialize>(reply: &T) -> Result<Output, Failure> {
    let text = serde_json::to_string(reply)?;
    let structured = text.starts_with('{').then(|| text.clone());
    Ok(Output {
        content: vec![Content::Json(text)],
        structured,
        is_error: false,
    })
}
