//! The word that somebody probably meant.

/// ` (did you mean `allow`?)` when one of `known` is near to `word`, else nothing.
#[must_use]
pub fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    closest(word, known).map_or_else(String::new, |near| format!(" (did you mean `{near}`?)"))
}

/// The one of `known` that differs from `word` in the fewest letters, if those are few: a third of its length, at
/// most three.
pub fn closest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // Long words are no typing errors of short ones; this bounds the work, too.
    const LONGEST: usize = 64;
    if word.len() > LONGEST {
        return None;
    }
    known
        .into_iter()
        .filter(|near| near.len() <= LONGEST)
        .map(|near| (distance(&word.to_lowercase(), near), near))
        .filter(|(distance, near)| *distance <= (near.chars().count().max(3) / 3).min(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, near)| near)
}

/// Letters to insert, delete or replace, or neighbours to swap.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(rows[i - 2][j - 2] + 1);
            }
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_that_was_probably_meant_is_found() {
        let known = ["allow", "deny", "private_networks", "agent", "kv"];
        for (word, near) in [
            ("alow", Some("allow")),
            ("Allow", Some("allow")),
            ("dney", Some("deny")),
            ("private_network", Some("private_networks")),
            ("agnet", Some("agent")),
            ("vk", Some("kv")),
            ("something", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(closest(word, known), near, "{word}");
        }
        assert_eq!(nearest("agents", known), " (did you mean `agent`?)");
        assert_eq!(nearest("zzz", known), "");
    }
}
