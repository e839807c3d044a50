//! Page cursors: opaque to clients, bound to the list they came from. They carry a place in an order, never authority: each
//! query is scoped by org whatever the cursor says.

use crate::{
    api::{Result, StoreError},
    record::{Page, PageRequest},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Serialize, de::DeserializeOwned};

const MOST: u32 = 1000;

/// A list that pages, and the tag of its cursors.
#[derive(Clone, Copy)]
pub(super) enum List {
    Sessions,
    KeyValues,
    Secrets,
    Ledger,
    Usage,
    Schedules,
    ScheduleRuns,
    Webhooks,
    Deliveries,
    Jobs,
}

impl List {
    const fn tag(self) -> u8 {
        match self {
            Self::Sessions => b's',
            Self::KeyValues => b'k',
            Self::Secrets => b'n',
            Self::Ledger => b'l',
            Self::Usage => b'u',
            Self::Schedules => b'p',
            Self::ScheduleRuns => b'r',
            Self::Webhooks => b'w',
            Self::Deliveries => b'd',
            Self::Jobs => b'j',
        }
    }
}

/// The limit, brought into the range that is served.
pub(super) fn limit(page: &PageRequest) -> u32 {
    page.limit.clamp(1, MOST)
}

/// The place that the request continues from.
pub(super) fn place<T: DeserializeOwned>(page: &PageRequest, list: List) -> Result<Option<T>> {
    let Some(cursor) = &page.after else {
        return Ok(None);
    };
    let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| StoreError::BadCursor)?;
    match bytes.split_first() {
        Some((tag, place)) if *tag == list.tag() => serde_json::from_slice(place)
            .map(Some)
            .map_err(|_| StoreError::BadCursor),
        _ => Err(StoreError::BadCursor),
    }
}

/// Makes a page of rows that were asked for with one more than the limit, to see whether more follow.
pub(super) fn page<T, P: Serialize>(
    mut items: Vec<T>,
    limit: u32,
    list: List,
    place_of: impl Fn(&T) -> P,
) -> Result<Page<T>> {
    let limit = limit as usize;
    let more = items.len() > limit;
    items.truncate(limit);
    let next = match items.last() {
        Some(last) if more => {
            let mut bytes = vec![list.tag()];
            serde_json::to_writer(&mut bytes, &place_of(last)).map_err(|_| StoreError::BadCursor)?;
            Some(URL_SAFE_NO_PAD.encode(bytes))
        }
        _ => None,
    };
    Ok(Page { items, next })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(after: &str) -> PageRequest {
        PageRequest {
            after: Some(after.into()),
            limit: 1,
        }
    }

    #[test]
    fn a_cursor_continues_its_own_list_only() {
        let first = page(vec!["a", "b"], 1, List::KeyValues, |key| (*key).to_owned()).unwrap();
        let next = request(&first.next.unwrap());
        assert_eq!(place::<String>(&next, List::KeyValues).unwrap().as_deref(), Some("a"));
        assert!(matches!(
            place::<String>(&next, List::Sessions),
            Err(StoreError::BadCursor)
        ));
    }

    #[test]
    fn anything_else_is_no_cursor() {
        for text in ["", "a", "%", "a2E", &URL_SAFE_NO_PAD.encode("k{")] {
            assert!(
                matches!(
                    place::<String>(&request(text), List::KeyValues),
                    Err(StoreError::BadCursor)
                ),
                "{text}"
            );
        }
    }

    #[test]
    fn the_last_page_has_no_cursor() {
        assert_eq!(page(vec![1, 2], 2, List::Ledger, |n| *n).unwrap().next, None);
    }
}
