//! Inputs that are texts.

use super::Group;

fn group(texts: &[(&'static str, &str)]) -> Group {
    let bytes = |(name, text): &(&'static str, &str)| (*name, text.as_bytes().to_vec());
    texts.iter().map(bytes).collect()
}

const HOST_KEY: &str = "c3NoLWVkMjU1MTkgQUFBQUMzTnphQzFsWkRJMU5URTVBQUFBSU5RdENIeEpIRWc1cHlqUXlqenlVUFoxS0tzQTFaNTcvZmxzaEdKVlhrOVE=";

pub fn hosts() -> Group {
    let all = format!(
        "ssh://u@a:22/?ssh-key=/etc/nix/a%20b&base64-ssh-public-host-key={HOST_KEY}&compress=yes&\
         remote-program=sudo%20nix-store&remote-store=/mnt/x?a%3db&priority=-3&trusted=1&max-connections=64"
    );
    let mut seeds = group(&[
        (
            "names",
            "a\nA:22\nu@a.example.org\nu.v_w+x-1@a:2222\nssh://u%2Dv@a:65535/",
        ),
        (
            "addresses",
            "192.0.2.1:22\nu@[::1]:2222\n[0:0::1]\nssh://[2001:DB8::1]\n[::ffff:1.2.3.4]",
        ),
        (
            "zones",
            "[fe80::1%eth0.5]\nssh://[fe80::1%25eth0]:1\n[fe80::1%25]",
        ),
        // Shown, these digits were once taken for the escape of the % before them.
        ("zone-25", "ssh://[fe80::1%2525x]\n[fe80::1%2525]:22"),
        (
            "port",
            "ssh://a?port=2222\nssh://a:1?port=2\na:0\na:65536\na:+22",
        ),
        (
            "ignored",
            "ssh://a?want-mass-query=true&priority=1&path-info-cache-size=3",
        ),
        (
            "options",
            "-oProxyCommand=x\n-l@a\nssh://a?remote-store=%60x\nssh://a?remote-program=x%20%60y\nssh://a?remote-program=-x\nssh://a?ssh-key=-i",
        ),
        (
            "escapes",
            "\u{1b}[31m\nssh://u%0a@a\nssh://a?ssh-key=%1b\nssh://a?remote-store=%zz",
        ),
        (
            "others",
            "ssh-ng://a\nhttps://a\nssh://a/nix\nu:p@a\nssh://a?unknown=1\nssh://a?trusted\n",
        ),
    ]);
    seeds.push(("parameters", all.into_bytes()));
    seeds
}

pub fn nix_conf() -> Group {
    group(&[
        (
            "files",
            "# a comment\nssh-substituter-hosts = a ssh://u@b:22?trusted=true # more\ninclude x\n!include gone\n\
             == ssh-substituter.conf\nextra-ssh-substituter-hosts = c\nconnect-timeout = 0\nunknown = 1\n\
             == x\ntrusted-ssh-substituter-hosts = d ssh://e?remote-program=x\nreadahead-memory=3G\n",
        ),
        (
            "all-settings",
            "use-ssh-substituter = no\nssh-auth-sock = /run/agent\nconnect-timeout = 99999999999999999999\n\
             stalled-download-timeout = 1\ndead-link-timeout = 3\nrequire-sigs = false\n\
             trusted-public-keys = test-1:TmSVqZEzdiGzR/VUmPvGtwgUPN3SICN5e1Yp9BYG+Wo= x y:AAAA\n\
             narinfo-cache-positive-ttl = 0\nnarinfo-cache-negative-ttl = 7\nreadahead-memory = 18446744073709551615T\n\
             engine = off\nengine-idle-timeout = 60\n",
        ),
        (
            "untrusted",
            "ssh-substituter-hosts = a u@b:22\ntrusted-ssh-substituter-hosts = c\n== _NIX_OPTIONS\n\
             untrusted-ssh-substituter-hosts=c ssh://a?trusted=true&remote-program=evil\n\
             untrusted-extra-ssh-substituter-hosts=evil u@b\nuntrusted-ssh-auth-sock=/tmp/s\n\
             untrusted-use-ssh-substituter=true\nuntrusted-require-sigs=false\nrequire-sigs=true\nno line\n",
        ),
        (
            "refused-choice",
            "ssh-substituter-hosts = a\n== _NIX_OPTIONS\nuntrusted-ssh-substituter-hosts=evil\n",
        ),
        (
            "environment",
            "== NIX_CONFIG\nssh-substituter-hosts = a a\ninclude x\n== x\npriority = 1\n== NIX_SSHOPTS\n\
             -o 'User x' -p \"22\"\n== NIX_STORE_DIR\n/other/store/\n== SSH_AUTH_SOCK\nrelative\n",
        ),
        (
            "flags",
            "ssh-substituter-hosts = a b\n== --host\nb\nssh://c?priority=-1\n== --store\nb,c\n\
             == --option\nconnect-timeout 3\nunknown x\n",
        ),
        (
            "off-for-all",
            "use-ssh-substituter = false\n== _NIX_OPTIONS\nuntrusted-use-ssh-substituter=true\n",
        ),
        ("short-timeout", "dead-link-timeout = 2\n"),
        ("circle", "include x\n== x\ninclude x\n"),
        ("twice-itself", "include nix.conf\ninclude nix.conf"),
        ("no-assignment", "a b = c\n"),
        ("escape", "\u{1b}[31m\n"),
        (
            "bad-values",
            "connect-timeout = -1\n== NIX_STORE_DIR\n/nix/../store\n== NIX_SSHOPTS\n'open\n",
        ),
        ("bad-host", "ssh-substituter-hosts = -oProxyCommand=x\n"),
    ])
}

/// Infos as the real Nix 2.8.0 made them, and what it signed them with.
pub fn infos() -> Group {
    group(&[
        (
            "signed",
            "/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-self\nsha256-8S1nRRAoX0zwS2nF5Yoa5EG2GwVtd49uoe3lg9AMkis=\n\
             1008\n\n/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-self\n/nix/store/q3laishhmk84vl44j1973qpzkyhmr90c-text\n\n\
             test-1:TmSVqZEzdiGzR/VUmPvGtwgUPN3SICN5e1Yp9BYG+Wo=\n\
             test-1:fR5UIGBgDTr0L/YlZ3ZQ9mgoruUmj0InlvbiD09KF+E46JbhyJM6GkN1a3fpagJLqKXdVFiWuRMnYsDZEEC4Dw==\n\
             k2:AxP+iqIvQvABxJzZelSBt0ab5OokbG0k9mu5p21zA8o=\nrules-1:AAAA\n:x\n",
        ),
        (
            "text",
            "/nix/store/q3laishhmk84vl44j1973qpzkyhmr90c-text\nsha256-HDfQGvQL4ugGkd48w99EN3ppmvuxfGjwgJZLL9Bx/BM=\n120\n\
             text:sha256:00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4aq\n",
        ),
        (
            "text-with-reference",
            "/nix/store/837ahhxamrxkf7cdcjhalzr54r29phb3-refs\nsha256-rJzYAvST6bj01FlAiI3xDIkyzhnPuo7FXmikne44z+4=\n168\n\
             text:sha256:0x0fqs08j93gnp813v4pki0g0xsgdd78s5wv5l53id6wjq1d6wmq\n/nix/store/q3laishhmk84vl44j1973qpzkyhmr90c-text\n",
        ),
        (
            "flat",
            "/nix/store/qvhm3byg70qdq3w2fik75qavln97vcjn-file\nsha256-9ghaZFx/EaQcb/iSvPSo4YWuRiQyJzTrcjW1PHdJ6MM=\n120\n\
             fixed:sha256:1xk2hhjr0f2n4adj1h688wlz59xpl86y1r8bd2pjasg8gy16mikb\n",
        ),
        (
            "recursive",
            "/nix/store/s67s2q6mkxq6rrfvpvvp6mik5klch3aq-dir\nsha256-gxTcWLYy/UXzB8TGbQDwH67zXl2iTwUsdjAHqIBN/qo=\n648\n\
             fixed:r:sha256:1apy9n0ah1rhfqn0akx2bmgg7bhzy006vin40zrlbz9jnrcdq543\n",
        ),
        (
            "refers-to-itself",
            "/nix/store/50jhzyrdsdhdjysq20a3lwgm8gkahy0d-self\nsha256-RGK6keC2aLI8SXs7sipFZbuTgH79KAihyj1WsoWjBrM=\n1008\n\
             fixed:r:sha256:1mpn1d49d6w2xr6grcckln75zdajwa1idwbxk4mld9iwwdy6xbc0\n\
             /nix/store/50jhzyrdsdhdjysq20a3lwgm8gkahy0d-self\n/nix/store/72f1hzld5g7dj6wknixkal0bd6zzy2mc-text\n",
        ),
        // Once taken for a hash.
        (
            "padding-amid-base64",
            "sha256-8S1nRRAoX0zwS2nF5Yoa5EG2GwVtd49uoe3lA9k=sigM\n",
        ),
        (
            "no-paths",
            "/nix/../7rjj86a15146cq1d3qy068lml7n7ykzm-a\n/./7rjj86a15146cq1d3qy068lml7n7ykzm-a\n",
        ),
        (
            "spellings",
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n\
             sha256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855\n\
             sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\
             sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73\n/x;1,/7rjj86a15146cq1d3qy068lml7n7ykzm-a\n",
        ),
    ])
}
