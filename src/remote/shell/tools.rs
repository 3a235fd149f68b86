//! The tools of a host: GNU's, or what else does the same, as busybox and the BSDs have it.
//!
//! Three functions are defined in the shell, so that all other commands are the same everywhere:
//!
//! | function | what it prints |
//! | --- | --- |
//! | `list PATH...` | what is at and below the paths, see [`super::listing`]; options of `find` may follow |
//! | `names FOLDER...` | what is in the folders, a zero byte behind each; GNU's `find` leaves the folder out |
//! | `part SKIP COUNT FILE` | so many bytes of a file, from that offset on |

/// How many bytes `dd` takes at once: what the pipes on the way hold.
const DD_BLOCK_SIZE: &str = "64k";

/// What was found of the tools of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tools {
    /// There is `zstd`.
    pub(super) has_zstd: bool,
    /// `find` and the others are GNU's.
    pub(super) are_gnu: bool,
}

/// Defines the functions. `$v` is then what `part 3 4` should print of `0123456789`.
pub(super) fn definitions() -> String {
    // One process that seeks, where `tail | head` are two and copy everything once more.
    let dd = format!("dd status=none bs={DD_BLOCK_SIZE} iflag=skip_bytes,count_bytes,fullblock");
    // busybox(1) has no -printf; BSD's stat(1) has its own formats. Targets of links have the lengths that `stat` prints.
    format!(
        r#"if find / -maxdepth 0 -printf '' 2>/dev/null;then list(){{ find "$@" -printf '%y %m %s %P\0%l\0';}};names(){{ find "$@" -printf '%f\0';}}
else if stat -c %f / >/dev/null 2>&1;then stats(){{ xargs -0 stat -c '%f %s';}};else stats(){{ xargs -0 stat -f '%Xp %z';}};fi
list(){{ find "$@" -print0&&printf '\0'&&find "$@" -print0|stats&&printf '\0'&&find "$@" -type l -exec readlink -n {{}} \;;}};names(){{ find "$@" -print0;}};fi
v=$(printf 0123456789|{dd} skip=3 count=4 2>/dev/null)
if [ "$v" = 3456 ];then part(){{ {dd} skip="$1" count="$2" if="$3";}};else v=$(printf 0123456789|tail -c +4|head -c 4);part(){{ {{ tail -c "+$(($1+1))"|head -c "$2";}}<"$3";}};fi
"#
    )
}
