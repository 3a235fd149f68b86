#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ssh_substituter_fuzz::differences::check(input));
