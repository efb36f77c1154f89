//! Which devices a container may use, under cgroup v2: a small program in the kernel that is asked every time.
#![expect(unsafe_code, reason = "the bpf system call has no safe form in the libraries at hand")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;
const MAKE: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;

/// The commands and kinds of the system call, as `linux/bpf.h` numbers them.
const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const CGROUP_DEVICE_PROGRAM: u32 = 15;
const CGROUP_DEVICE_HOOK: u32 = 6;
const ALLOW_MULTIPLE: u32 = 2;

/// A rule in the words of cgroup v1, such as `c 1:3 rwm` or `b *:* m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    kind: i32,
    major: Option<i32>,
    minor: Option<i32>,
    access: i32,
}

/// Allows the processes in `group` the devices of `rules` and no others.
pub(super) fn restrict(group: &Path, rules: &[&str]) -> io::Result<()> {
    let rules: Vec<Rule> = rules.iter().filter_map(|rule| parse(rule)).collect();
    let program = load(&program(&rules))?;
    let group = std::fs::File::open(group)?;
    let mut attributes = Attach {
        target: group.as_raw_fd(),
        program: program.as_raw_fd(),
        hook: CGROUP_DEVICE_HOOK,
        flags: ALLOW_MULTIPLE,
        replaced: 0,
    };
    bpf(PROG_ATTACH, (&raw mut attributes).cast(), size_of::<Attach>()).map(drop)
}

fn parse(rule: &str) -> Option<Rule> {
    let mut parts = rule.split(' ');
    let kind = match parts.next()? {
        "c" => CHARACTER,
        "b" => BLOCK,
        _ => return None,
    };
    let (major, minor) = parts.next()?.split_once(':')?;
    let number = |text: &str| if text == "*" { Some(None) } else { Some(Some(text.parse().ok()?)) };
    let letters = parts.next()?;
    let access = [('r', READ), ('w', WRITE), ('m', MAKE)];
    let access = access.iter().filter(|(letter, _)| letters.contains(*letter)).map(|(_, bit)| bit).sum();
    Some(Rule { kind, major: number(major)?, minor: number(minor)?, access })
}

/// An instruction of the kernel's machine.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    /// The register written to in the low half, the one read from in the high one.
    registers: u8,
    offset: i16,
    value: i32,
}

/// `r<to> = *(u32 *)(r<from> + offset)`
fn load_word(to: u8, from: u8, offset: i16) -> Instruction {
    Instruction { code: 0x61, registers: to | from << 4, offset, value: 0 }
}

/// `r<to> = r<from>`
fn copy(to: u8, from: u8) -> Instruction {
    Instruction { code: 0xbf, registers: to | from << 4, offset: 0, value: 0 }
}

/// `r<to> = value`
fn set(to: u8, value: i32) -> Instruction {
    Instruction { code: 0xb7, registers: to, offset: 0, value }
}

/// `r<to> &= value`, on 32 bits.
fn and(to: u8, value: i32) -> Instruction {
    Instruction { code: 0x54, registers: to, offset: 0, value }
}

/// `r<to> >>= value`, on 32 bits.
fn shift_right(to: u8, value: i32) -> Instruction {
    Instruction { code: 0x74, registers: to, offset: 0, value }
}

/// Skips `by` instructions unless `r<register> == value`.
fn skip_unless(register: u8, value: i32, by: usize) -> Instruction {
    let offset = i16::try_from(by).unwrap_or(i16::MAX);
    Instruction { code: 0x55, registers: register, offset, value }
}

/// Ends with `r0` as the answer.
const EXIT: Instruction = Instruction { code: 0x95, registers: 0, offset: 0, value: 0 };

/// The program gets a pointer to three words in r1: access and kind, major, minor. It answers 1 for yes.
fn program(rules: &[Rule]) -> Vec<Instruction> {
    const KIND: u8 = 2;
    const ACCESS: u8 = 3;
    const MAJOR: u8 = 4;
    const MINOR: u8 = 5;
    const SCRATCH: u8 = 6;
    let mut all = vec![
        load_word(KIND, 1, 0),
        copy(ACCESS, KIND),
        and(KIND, 0xffff),
        shift_right(ACCESS, 16),
        load_word(MAJOR, 1, 4),
        load_word(MINOR, 1, 8),
    ];
    for rule in rules {
        // What is asked for and not in the rule must be nothing.
        let mut tests = vec![(KIND, rule.kind)];
        tests.extend(rule.major.map(|major| (MAJOR, major)));
        tests.extend(rule.minor.map(|minor| (MINOR, minor)));
        tests.push((SCRATCH, 0));
        all.push(copy(SCRATCH, ACCESS));
        all.push(and(SCRATCH, !rule.access & (MAKE | READ | WRITE)));
        let count = tests.len();
        for (index, (register, value)) in tests.into_iter().enumerate() {
            // Past the tests that follow and the two instructions that answer.
            all.push(skip_unless(register, value, count - index - 1 + 2));
        }
        all.push(set(0, 1));
        all.push(EXIT);
    }
    all.push(set(0, 0));
    all.push(EXIT);
    all
}

/// The start of the kernel's `bpf_attr` for loading; what follows it there is zero.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
}

/// The start of the kernel's `bpf_attr` for attaching.
#[repr(C)]
struct Attach {
    target: i32,
    program: i32,
    hook: u32,
    flags: u32,
    replaced: u32,
}

fn load(instructions: &[Instruction]) -> io::Result<OwnedFd> {
    let mut attributes = Load {
        kind: CGROUP_DEVICE_PROGRAM,
        count: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
    };
    let fd = bpf(PROG_LOAD, (&raw mut attributes).cast(), size_of::<Load>())?;
    // SAFETY: the kernel has just made this descriptor, and nothing else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf(command: libc::c_long, attributes: *mut libc::c_void, size: usize) -> io::Result<i32> {
    // SAFETY: the attributes have `size` bytes and, like everything they point to, live until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size) };
    match i32::try_from(result) {
        Ok(fd) if fd >= 0 => Ok(fd),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Does what the kernel would do.
    fn run(program: &[Instruction], access: i32, kind: i32, major: i32, minor: i32) -> i32 {
        let words = [access << 16 | kind, major, minor];
        let mut registers = [0i32; 11];
        let mut at = 0usize;
        loop {
            let one = program[at];
            let (to, from) = (usize::from(one.registers & 15), usize::from(one.registers >> 4));
            at += 1;
            match one.code {
                0x61 => registers[to] = words[usize::try_from(one.offset).unwrap() / 4],
                0xbf => registers[to] = registers[from],
                0xb7 => registers[to] = one.value,
                0x54 => registers[to] &= one.value,
                0x74 => registers[to] = (registers[to].cast_unsigned() >> one.value).cast_signed(),
                0x55 if registers[to] != one.value => at += usize::try_from(one.offset).unwrap(),
                0x55 => {}
                0x95 => return registers[0],
                other => panic!("unknown code {other:#x}"),
            }
        }
    }

    #[test]
    fn the_program_allows_what_the_rules_allow() {
        let rules: Vec<Rule> =
            ["b *:* m", "c 1:3 rwm", "c 136:* rw", "b 8:1 r"].into_iter().filter_map(parse).collect();
        assert_eq!(rules.len(), 4);
        let program = program(&rules);
        for (access, kind, major, minor, expect) in [
            (MAKE, BLOCK, 8, 0, 1),
            (MAKE | READ, BLOCK, 8, 0, 0),
            (READ, BLOCK, 8, 0, 0),
            (READ, BLOCK, 8, 1, 1),
            (READ | WRITE, BLOCK, 8, 1, 0),
            (READ | WRITE, CHARACTER, 1, 3, 1),
            (READ | WRITE, CHARACTER, 1, 1, 0),
            (READ | WRITE, CHARACTER, 136, 7, 1),
            (MAKE, CHARACTER, 136, 7, 0),
        ] {
            assert_eq!(run(&program, access, kind, major, minor), expect, "{access} {kind} {major}:{minor}");
        }
    }
}
