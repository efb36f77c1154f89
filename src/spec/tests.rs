use super::*;

#[test]
fn an_empty_spec_is_the_default_lab() {
    insta::assert_json_snapshot!(check(&Document::default()).unwrap());
    for text in ["", "# nothing\n", "{}"] {
        assert_eq!(check(&parse(text).unwrap()), check(&Document::default()), "{text:?}");
    }
}
