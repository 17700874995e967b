//! The `#[test]` of tests/it. `#[test(Network, Rules)]` names what the test needs (`Need` in
//! tests/it/needs.rs); where the machine or the user lacks that, the test is skipped, counted and listed
//! with the reason. A plain `#[test]` needs nothing and always runs.
//!
//! The standard `#[test]` cannot skip at run time, so tests/it has a `main` of its own, and this attribute
//! registers the function there.

use proc_macro::{TokenStream, TokenTree};

/// Registers a function as a test of tests/it.
#[proc_macro_attribute]
pub fn test(needs: TokenStream, function: TokenStream) -> TokenStream {
    let mut words = function.clone().into_iter().skip_while(|token| token.to_string() != "fn").skip(1);
    let Some(TokenTree::Ident(name)) = words.next() else {
        return r##"compile_error!("#[test] belongs on a function");"##.parse().expect("a macro call");
    };
    let needs: String = needs
        .into_iter()
        .map(|token| match token {
            TokenTree::Ident(need) => format!("crate::needs::Need::{need}"),
            other => other.to_string(),
        })
        .collect();
    let registration = format!(
        r#"::inventory::submit! {{
            crate::needs::Test {{ name: concat!(module_path!(), "::{name}"), needs: &[{needs}], run: {name} }}
        }}"#
    );
    let registration: TokenStream = registration.parse().expect("a macro call");
    function.into_iter().chain(registration).collect()
}
