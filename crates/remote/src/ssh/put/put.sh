# Puts files in place, told by whoever holds the other ends of its streams. POSIX shell and coreutils only.
# 1. It is told how many files, and seven lines for each: path, SHA-256, size, mode, owner:group or -, part file, and
#    whether the checksum is noted beside it.
# 2. It tells what is there, up to "end".
# 3. It is told what to do: "put I" and the bytes, "set I", "end"; or "stream I BLOCKS METHOD" and the bytes.
# 4. It says "done" when all is in place, "mismatch" or "short" when what came is not what was announced.
# Of this only paths are ever in an argument list, which everybody on the machine can read: no contents, and no
# checksum but of big files, whose part files are named after it.
set -u
umask 077
LC_ALL=C
export LC_ALL
big=1048576
newline='
'
names=

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

# Sets the variables of file $1.
nth() {
    eval "path=\$path_$1 sum=\$sum_$1 size=\$size_$1 mode=\$mode_$1 owner=\$owner_$1 part=\$part_$1 noted=\$noted_$1"
    directory=${path%/*}
    directory=${directory:-/}
}

cleanup() {
    for i in $names; do
        nth "$i"
        rm -f -- "$part"
    done
}
trap cleanup EXIT

# Makes an empty part file, which nobody else made or can read, and what is above it.
fresh() {
    [ -d "$directory" ] || (umask 022 && mkdir -p -- "$directory") || exit 1
    rm -f -- "$part" && (set -C && : >"$part") || exit 1
}

attributes() {
    [ "$owner" = - ] || chown -- "$owner" "$1" || exit 1
    chmod -- "$mode" "$1" || exit 1
}

flush() {
    sync -- "$@" 2>/dev/null || sync
}

# Tells which file $1 is, and which state of it: whoever writes to it changes this.
identity() {
    stat -c '%i %s %y' -- "$1" 2>/dev/null
}

# Notes the checksum of a part beside its place. It holds for this very file in this very state only.
note() {
    [ "$noted" = true ] || return 0
    rm -f -- "$directory/.${path##*/}.sum"
    (set -C && printf '%s %s\n' "$sum" "$(identity "$part")" >"$directory/.${path##*/}.sum") || exit 1
}

# Sets `known` to the checksum that was noted for the file that is there now, or to nothing.
recall() {
    known=
    [ "$noted" = true ] || return 0
    file="$directory/.${path##*/}.sum"
    [ -f "$file" ] && [ ! -L "$file" ] && [ -O "$file" ] || return 0
    IFS= read -r known <"$file" || known=
    case "$known" in
    *" $(identity "$path")") known=${known%% *} ;;
    *) known= ;;
    esac
}

# Checks the parts in $names and gives them their places.
finish() {
    [ -n "$names" ] || return 0
    for i in $names; do
        nth "$i"
        printf '%s  %s\n' "$sum" "$part"
    done | sha256sum -c >/dev/null 2>&1 || {
        echo mismatch
        exit 0
    }
    set --
    for i in $names; do
        nth "$i"
        attributes "$part"
        set -- "$@" "$part"
    done
    flush "$@"
    set --
    for i in $names; do
        nth "$i"
        note
        mv -fT -- "$part" "$path" || exit 1
        set -- "$@" "$directory"
        # Where files have labels, the one of the part file's name need not be right.
        if command -v restorecon >/dev/null; then restorecon -F "$path" 2>/dev/null; fi
    done
    names=
    flush "$@"
}

echo '-- ready --'
IFS= read -r count || exit 1
i=0
have=
set --
while [ "$i" -lt "$count" ]; do
    for name in path sum size mode owner part noted; do
        IFS= read -r "${name}_$i" || exit 1
    done
    nth "$i"
    if [ -f "$path" ] && [ ! -L "$path" ]; then
        set -- "$@" "$path"
        have="$have $i"
        echo "have $i"
    elif [ -d "$path" ]; then
        fail "$path is a directory"
    fi
    if [ "$size" -gt "$big" ] && [ -f "$part" ] && [ ! -L "$part" ] && [ -O "$part" ]; then
        echo "part $i" $(wc -c <"$part")
    fi
    i=$((i + 1))
done
if [ $# -gt 0 ]; then
    all=$(stat -c '%s %a %U %G %u %g' -- "$@") || exit 1
    printf '%s\n' "$all"
    set --
    for i in $have; do
        nth "$i"
        line=${all%%"$newline"*}
        all=${all#*"$newline"}
        # A file of another size is another file: that is cheaper to know than its sum.
        if [ "${line%% *}" = "$size" ]; then
            recall
            if [ -n "$known" ]; then
                echo "noted $i $known"
            else
                set -- "$@" "$path"
                echo "sum $i"
            fi
        fi
    done
    [ $# -eq 0 ] || sha256sum -- "$@" || exit 1
fi
if command -v gzip >/dev/null; then echo gzip; fi
echo end

while read -r verb i blocks method; do
    case $verb in
    put)
        nth "$i"
        fresh
        names="$names $i"
        if [ "$size" -gt 0 ]; then
            dd bs="$size" count=1 iflag=fullblock status=none >"$part" || exit 1
        fi
        ;;
    set)
        nth "$i"
        attributes "$path"
        ;;
    stream)
        nth "$i"
        [ "$blocks" -gt 0 ] || fresh
        # Each byte has its own place: a forgotten writer of a broken connection writes the same ones.
        case $method in
        gzip) gzip -dc | dd of="$part" bs="$big" seek="$blocks" conv=notrunc iflag=fullblock status=none ;;
        *) dd of="$part" bs="$big" seek="$blocks" conv=notrunc iflag=fullblock status=none ;;
        esac || {
            rm -f -- "$part"
            exit 1
        }
        if [ "$(wc -c <"$part")" -lt "$size" ]; then
            echo short
            exit 0
        fi
        names=$i
        finish
        echo done
        exit 0
        ;;
    end)
        finish
        echo done
        exit 0
        ;;
    esac
done
exit 1
