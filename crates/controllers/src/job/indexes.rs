//! Sets of completion indexes in the form `1,3-5`.

use std::collections::BTreeSet;

/// Parses `1,3-5`; what cannot be read is passed over.
pub(crate) fn parse(text: &str) -> BTreeSet<i32> {
    let mut set = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            set.extend(first..=last);
        }
    }
    set
}

/// Writes a set as `1,3-5`; two neighbours are written with a comma, as upstream does.
pub(crate) fn format(set: &BTreeSet<i32>) -> String {
    let mut parts: Vec<(i32, i32)> = Vec::new();
    for index in set {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => parts.push((*index, *index)),
        }
    }
    let texts: Vec<String> = parts
        .into_iter()
        .map(|(first, last)| match last - first {
            0 => first.to_string(),
            1 => format!("{first},{last}"),
            _ => format!("{first}-{last}"),
        })
        .collect();
    texts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_written_as_ranges_and_read_back() {
        for (set, text) in [(vec![], ""), (vec![1, 3, 4, 5], "1,3-5"), (vec![0, 1], "0,1"), (vec![7], "7")] {
            let set: BTreeSet<i32> = set.into_iter().collect();
            assert_eq!(format(&set), text);
            assert_eq!(parse(text), set);
        }
    }
}
