//! Whatever stands in a file, a variable or a flag: a configuration, or mistakes that name who wrote them.

use proptest::{collection::vec, prelude::*};

use super::{tests::Written, *};

fn key() -> impl Strategy<Value = String> {
    let known = KnownKeys::read().names();
    prop_oneof![4 => prop::sample::select(known), 1 => "[a-z_.]{0,20}", 1 => "\\PC{0,12}"]
}

fn value() -> impl Strategy<Value = String> {
    const LIKELY: [&str; 14] = [
        "1",
        "0",
        "-1",
        "true",
        "null",
        "18446744073709551616",
        "1e400",
        ".nan",
        "default",
        "{a: [1, {b: 2}]}",
        "[1, 2",
        "&a [*a]",
        "!!binary x",
        "\u{0}",
    ];
    prop_oneof![2 => prop::sample::select(&LIKELY[..]).prop_map(str::to_owned), 1 => any::<u32>().prop_map(|n| n.to_string()), 1 => "\\PC{0,20}"]
}

fn check(sources: &Sources) -> Result<(), TestCaseError> {
    let Err(errors) = load(sources) else { return Ok(()) };
    prop_assert!(!errors.mistakes.is_empty());
    for mistake in &errors.mistakes {
        prop_assert!(!mistake.problem.is_empty());
        let named = !mistake.key.is_empty() || mistake.origin != Origin::Default;
        prop_assert!(named, "whose mistake is it? {}", mistake);
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_variables_and_flags_are_a_configuration_or_mistakes(pairs in vec((key(), value()), 0..6), bare in "\\PC{0,20}") {
        let name = |key: &str| format!("GPUFLEET__{}", key.to_uppercase().replace('.', "__"));
        let environment = pairs.iter().map(|(key, value)| (name(key), value.clone())).collect();
        let overrides = pairs.iter().map(|(key, value)| format!("{key}={value}")).chain([bare]).collect();
        check(&Sources { folder: "/nonexistent".into(), environment, overrides, ..Sources::default() })?;
    }

    #[test]
    fn any_file_is_a_configuration_or_mistakes(lines in vec((0..3_usize, key(), value()), 0..8), junk in vec(any::<u8>(), 0..30)) {
        let yaml: String = lines.iter().map(|(depth, key, value)| format!("{}{key}: {value}\n", "  ".repeat(*depth))).collect();
        check(&Written::file(&yaml).sources)?;
        check(&Written::bytes(&junk).sources)?;
    }

    #[test]
    fn what_is_printed_is_read_the_same(pairs in vec((key(), value()), 0..4)) {
        // Passwords are hidden in print, so no URL comes back.
        let overrides = pairs.iter().filter(|(key, _)| !key.ends_with("url")).map(|(key, value)| format!("{key}={value}")).collect();
        let sources = Sources { folder: "/nonexistent".into(), overrides, ..Sources::default() };
        if let Ok(loaded) = sources.load() {
            let again = load(&Written::file(&loaded.to_yaml()).sources);
            prop_assert_eq!(again.map_err(|errors| errors.to_string()), Ok(loaded.configuration));
        }
    }
}
