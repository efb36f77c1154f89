//! Words made safe for a POSIX shell.

/// Returns `word` so that a POSIX shell reads it as that one word, whatever is in it.
#[must_use]
pub fn word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    // A leading `=` or `~` means something to some shells; an assignment before a command to all of them.
    if !word.is_empty() && word.chars().all(plain) && !word.contains('=') {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Returns the words as one line for a POSIX shell.
#[must_use]
pub fn words<W: AsRef<str>>(words: &[W]) -> String {
    words.iter().map(|one| word(one.as_ref())).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a real shell makes of the line.
    fn shell(line: &str) -> Vec<String> {
        let output = std::process::Command::new("/bin/sh")
            .arg("-c")
            .arg(format!("printf '%s\\0' {line}"))
            .output()
            .unwrap();
        let mut words: Vec<String> =
            String::from_utf8(output.stdout).unwrap().split('\0').map(str::to_owned).collect();
        words.pop();
        words
    }

    #[test]
    fn plain_words_stay_readable() {
        assert_eq!(
            words(&["systemctl", "restart", "node-agent.service"]),
            "systemctl restart node-agent.service"
        );
        assert_eq!(words(&["echo", "it's $HOME", ""]), r"echo 'it'\''s $HOME' ''");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn a_real_shell_gives_the_words_back(given in prop::collection::vec("[^\0]{0,20}", 1..5)) {
            prop_assert_eq!(shell(&words(&given)), given);
        }

        #[test]
        fn signs_that_mean_something_do_not(given in prop::collection::vec("[-~=#!*?$`'\"\\\\;&|<>(){}\\[\\] \n\ta]{0,8}", 1..5)) {
            prop_assert_eq!(shell(&words(&given)), given);
        }
    }
}
