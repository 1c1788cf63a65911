//! What can be formatted stays as it is when formatted again, and parses.
#![no_main]

use headstart_dsl::format;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(once) = format(text) {
        assert_eq!(format(&once).as_deref(), Ok(once.as_str()));
    }
});
