//! What there is to say of a type of event, and how the types are written down: once, for the wire, the code and the reference page.

/// Whether an event is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// In the journal, with a `seq`.
    Recorded,
    /// Only on live streams.
    Live,
}

/// One type of event, for documentation.
#[derive(Debug, Clone, Copy)]
pub struct EventKind {
    /// The wire name.
    pub name: &'static str,
    /// Whether it is kept.
    pub life: Life,
    /// What it means.
    pub doc: &'static str,
    /// The fields of `data` and what they mean.
    pub fields: &'static [(&'static str, &'static str)],
}

/// Makes `EventBody` of the events' names, lives, meanings and fields.
macro_rules! event_bodies {
    ($(#[doc = $doc:literal] $variant:ident, $name:literal, $life:ident, {
        $(#[doc = $field_doc:literal] $(#[serde($($serde:tt)*)])? $field:ident: $type:ty,)*
    };)*) => {
        /// What happened.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "type", content = "data")]
        pub enum EventBody {
            $(#[doc = $doc] #[serde(rename = $name)] $variant {$(#[doc = $field_doc] $(#[serde($($serde)*)])? $field: $type,)*},)*
        }

        impl EventBody {
            /// The wire name.
            #[must_use]
            pub const fn type_name(&self) -> &'static str {
                match self {$(Self::$variant {..} => $name,)*}
            }

            /// Whether it is recorded, or only shown live.
            #[must_use]
            pub const fn life(&self) -> Life {
                match self {$(Self::$variant {..} => Life::$life,)*}
            }

            /// Every type of event: name, life, meaning, fields with their meaning. The reference page is made of it.
            pub const CATALOGUE: &'static [EventKind] = &[$(EventKind {
                name: $name,
                life: Life::$life,
                doc: $doc,
                fields: &[$((stringify!($field), $field_doc)),*],
            }),*];
        }
    };
}

pub(super) use event_bodies;
