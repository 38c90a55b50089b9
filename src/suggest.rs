//! "Did you mean …": the nearest of the words that are allowed.

/// The word of `allowed` that differs from `word` by the fewest edits, if that is few enough to be a slip.
pub fn nearest<'a>(word: &str, allowed: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word.chars().take(LONGEST + 1).flat_map(char::to_lowercase).collect();
    if word.is_empty() || word.len() > LONGEST {
        return None;
    }
    let limit = word.len().div_ceil(3);
    let distances = allowed.into_iter().map(|candidate| (distance(&word, candidate), candidate));
    distances.filter(|(edits, _)| *edits <= limit).min_by_key(|(edits, _)| *edits).map(|(_, candidate)| candidate)
}

/// `; did you mean "…"?` or nothing: to end an error message with.
pub fn hint<'a>(word: &str, allowed: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, allowed).map(|near| format!("; did you mean \"{near}\"?")).unwrap_or_default()
}

const LONGEST: usize = 64;

/// Edits (insert, delete, replace, swap neighbours) from one word to the other.
fn distance(word: &[char], candidate: &str) -> usize {
    let other: Vec<char> = candidate.chars().take(2 * LONGEST).collect();
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, &left) in word.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, &right) in other.iter().enumerate() {
            let mut best = (row[j] + usize::from(left != right)).min(row[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && left == other[j - 1] && word[i - 1] == right {
                best = best.min(before[j - 1] + 1);
            }
            next.push(best);
        }
        before = std::mem::replace(&mut row, next);
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let allowed = ["ports", "cgroups", "ring_size"];
        assert_eq!(nearest("port", allowed), Some("ports"));
        assert_eq!(nearest("prots", allowed), Some("ports"));
        assert_eq!(nearest("RingSize", allowed), Some("ring_size"));
        assert_eq!(nearest("banana", allowed), None);
        assert_eq!(nearest("", allowed), None);
        assert_eq!(nearest(&"x".repeat(10_000), allowed), None);
        assert_eq!(hint("prots", allowed), "; did you mean \"ports\"?");
    }
}
