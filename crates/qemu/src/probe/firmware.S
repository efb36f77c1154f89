# What a guest does first, in place of a firmware: from real mode to long mode with paging, a few registers
# that every kernel touches, 32 MiB of memory, and enough arithmetic that a processor which is emulated
# instruction by instruction does not get through it in time.
#
# Built into firmware.bin by:
#   as --64 -o f.o firmware.S && ld -Ttext=0 --oformat binary -e 0 -o firmware.bin f.o
# The ROM has it at its beginning, and a jump to it where the processor starts (0xfff0).

        .set ROM, 0xf0000               # where the ROM is seen below 1 MiB
        .set SERIAL, 0x3f8              # the first serial port takes a byte even if nobody has set it up

        .globl start
        .code16
start:
        cli
        lgdtl   %cs:gdt_pointer
        movl    %cr0, %eax
        orl     $1, %eax                # protected mode
        movl    %eax, %cr0
        ljmpl   $8, $(ROM + protected)

        .code32
protected:
        movl    $16, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %ss
        # Page tables at 0x1000, 0x2000 and 0x3000: the first GiB, in pages of 2 MiB.
        xorl    %eax, %eax
        movl    $0x1000, %edi
        movl    $0x2000/4, %ecx
        cld
        rep stosl
        movl    $0x2003, 0x1000
        movl    $0x3003, 0x2000
        movl    $0x3000, %edi
        movl    $0x83, %eax
        movl    $512, %ecx
1:      movl    %eax, (%edi)
        movl    $0, 4(%edi)
        addl    $0x200000, %eax
        addl    $8, %edi
        loop    1b
        movl    %cr4, %eax
        orl     $0x20, %eax             # PAE
        movl    %eax, %cr4
        movl    $0x1000, %eax
        movl    %eax, %cr3
        movl    $0xc0000080, %ecx       # EFER
        rdmsr
        orl     $0x100, %eax            # LME
        wrmsr
        movl    %cr0, %eax
        orl     $0x80000000, %eax       # paging
        movl    %eax, %cr0
        ljmpl   $24, $(ROM + long)

        .code64
long:
        movq    $0x200000, %rsp
        movl    $0x277, %ecx            # PAT: its value at reset is put back
        rdmsr
        wrmsr
        movl    $0x1b, %ecx             # the local APIC's base
        rdmsr
        movl    $100, %esi              # instructions that always leave the guest
2:      xorl    %eax, %eax
        cpuid
        decl    %esi
        jnz     2b
        # 32 MiB from 4 MiB on: fresh memory, page by page.
        movl    $0x400000, %edi
        movl    $0x2000000/8, %ecx
        movq    $0x0123456789abcdef, %rax
        rep stosq
        # 40 million rounds over it: some 30 ms.
        movl    $40000000, %ecx
        xorl    %ebx, %ebx
3:      movl    %ecx, %eax
        andl    $0x1fffff8, %eax
        addl    0x400000(%rax), %ebx
        decl    %ecx
        jnz     3b
        # The lower half of the pattern, 40 million times, modulo 2^32.
        cmpl    $SUM, %ebx
        movb    $'N', %al
        jne     4f
        movb    $'Y', %al
4:      movw    $SERIAL, %dx
        outb    %al, %dx
5:      hlt
        jmp     5b

        .set SUM, (0x89abcdef * 40000000) & 0xffffffff

        .balign 8
gdt:
        .quad   0
        .quad   0x00cf9b000000ffff      # 8: code, 32 bits
        .quad   0x00cf93000000ffff      # 16: data
        .quad   0x00af9b000000ffff      # 24: code, 64 bits
gdt_pointer:
        .word   . - gdt - 1
        .long   ROM + gdt
