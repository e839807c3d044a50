//! The first place at which two values part.

use super::Difference;
use serde_json::Value;

/// How much of a text is shown before the place.
const BEFORE: usize = 60;

/// The first difference, the place named from `root` on. `None`: they are the same.
pub(super) fn first_difference(root: &str, recorded: &Value, replayed: &Value) -> Option<Difference> {
    if recorded == replayed {
        return None;
    }
    let (mut recorded, mut replayed, mut at) = (recorded, replayed, root.to_owned());
    loop {
        let next = match (recorded, replayed) {
            (Value::Object(one), Value::Object(other)) => one
                .keys()
                .chain(other.keys())
                .find(|key| one.get(*key) != other.get(*key))
                .map(|key| {
                    let of = |map: &'_ serde_json::Map<String, Value>| map.contains_key(key);
                    (key.clone(), of(one) && of(other), one.get(key), other.get(key))
                }),
            (Value::Array(one), Value::Array(other)) => {
                let place = one.iter().zip(other).position(|(one, other)| one != other);
                let place = place.unwrap_or_else(|| one.len().min(other.len()));
                let (one, other) = (one.get(place), other.get(place));
                Some((place.to_string(), one.is_some() && other.is_some(), one, other))
            }
            _ => None,
        };
        match next {
            Some((key, true, Some(one), Some(other))) => {
                at = format!("{at}/{key}");
                (recorded, replayed) = (one, other);
            }
            Some((key, _, one, other)) => {
                let side = |value: Option<&Value>| value.map_or_else(|| "nothing".to_owned(), Value::to_string);
                return Some(Difference::new(format!("{at}/{key}"), side(one), side(other)));
            }
            None => return Some(leaf(at, recorded, replayed)),
        }
    }
}

fn leaf(at: String, recorded: &Value, replayed: &Value) -> Difference {
    let (Value::String(one), Value::String(other)) = (recorded, replayed) else {
        return Difference::new(at, recorded.to_string(), replayed.to_string());
    };
    let same = one
        .chars()
        .zip(other.chars())
        .take_while(|(one, other)| one == other)
        .count();
    let from = |text: &str| {
        let shown: String = text.chars().skip(same.saturating_sub(BEFORE)).collect();
        let shown = Value::String(shown).to_string();
        if same > BEFORE { format!("…{shown}") } else { shown }
    };
    let at = if same > 0 {
        format!("{at}, from its character {} on", same + 1)
    } else {
        at
    };
    Difference::new(at, from(one), from(other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn differs(one: &Value, other: &Value) -> (String, String, String) {
        let difference = first_difference("result", one, other).unwrap();
        (difference.at, difference.recorded, difference.replayed)
    }

    fn sides(at: &str, recorded: &str, replayed: &str) -> (String, String, String) {
        (at.into(), recorded.into(), replayed.into())
    }

    #[test]
    fn what_is_the_same_has_no_difference() {
        let value = json!({"a": [1, {"b": "c"}]});
        assert_eq!(first_difference("result", &value, &value.clone()), None);
    }

    #[test]
    fn the_place_of_the_first_difference_is_named_with_both_sides() {
        let one = json!({"content": [{"text": "same"}, {"text": "one"}]});
        let other = json!({"content": [{"text": "same"}, {"text": "two"}]});
        assert_eq!(
            differs(&one, &other),
            sides("result/content/1/text", "\"one\"", "\"two\"")
        );
        let shorter = json!({"content": [{"text": "same"}]});
        assert_eq!(
            differs(&one, &shorter),
            sides("result/content/1", "{\"text\":\"one\"}", "nothing")
        );
        assert_eq!(
            differs(&json!({"ok": 1}), &json!({"err": 1})),
            sides("result/ok", "1", "nothing")
        );
        assert_eq!(differs(&json!(1), &json!("1")), sides("result", "1", "\"1\""));
    }

    #[test]
    fn of_a_long_text_the_part_around_the_difference_is_shown() {
        let text = |end: &str| json!(format!("{}{end}", "ä".repeat(500)));
        let (at, recorded, replayed) = differs(&text("x"), &text("y"));
        assert_eq!(at, "result, from its character 501 on");
        assert!(
            recorded.starts_with("…\"ää") && recorded.ends_with("äx\""),
            "{recorded}"
        );
        assert!(replayed.ends_with("äy\""), "{replayed}");
    }
}
