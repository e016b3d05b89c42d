/*
 * The least that runs a guest on KVM: what an exit costs before any hypervisor does anything about it.
 *
 * A line with a number on standard input makes the guest, a real-mode loop of `out 0xe9, al`, exit so many times; a
 * line with the exits counted and the nanoseconds they took answers it. The guest goes on where it stood.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define CODE 0x1000
#define RAM_BYTES 0x10000
#define PORT 0xe9
#define CPUID_MAX 256

/* again: out 0xe9, al; jmp again */
static const unsigned char code[] = {0xe6, PORT, 0xeb, 0xfc};

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static int call(int fd, unsigned long request, void *argument, const char *name)
{
	int result = ioctl(fd, request, argument);
	if (result < 0)
		fail(name);
	return result;
}

static long long now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* As any hypervisor does: KVM looks at it when it emulates an instruction. */
static void set_cpuid(int kvm, int vcpu)
{
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof *cpuid + CPUID_MAX * sizeof cpuid->entries[0]);
	if (!cpuid)
		fail("calloc");
	cpuid->nent = CPUID_MAX;
	call(kvm, KVM_GET_SUPPORTED_CPUID, cpuid, "KVM_GET_SUPPORTED_CPUID");
	call(vcpu, KVM_SET_CPUID2, cpuid, "KVM_SET_CPUID2");
	free(cpuid);
}

static void enter_real_mode(int vcpu)
{
	struct kvm_sregs sregs;
	call(vcpu, KVM_GET_SREGS, &sregs, "KVM_GET_SREGS");
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	call(vcpu, KVM_SET_SREGS, &sregs, "KVM_SET_SREGS");
	struct kvm_regs regs = {.rip = CODE, .rflags = 2};
	call(vcpu, KVM_SET_REGS, &regs, "KVM_SET_REGS");
}

/* Runs until the port was written `count` times; the time between the write before the first and the last. */
static void measure(int vcpu, struct kvm_run *run, long count)
{
	long exits = -1;
	long long start = 0;
	while (exits < count) {
		if (ioctl(vcpu, KVM_RUN, 0) < 0)
			fail("KVM_RUN");
		switch (run->exit_reason) {
		case KVM_EXIT_IO:
			if (run->io.port != PORT || run->io.direction != KVM_EXIT_IO_OUT)
				exit(3);
			if (++exits == 0)
				start = now();
			break;
		default:
			fprintf(stderr, "exit reason %u\n", run->exit_reason);
			exit(3);
		}
	}
	printf("%ld %lld\n", exits, now() - start);
	fflush(stdout);
}

int main(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0)
		fail("/dev/kvm");
	int vm = call(kvm, KVM_CREATE_VM, 0, "KVM_CREATE_VM");
	/* Processors of Intel's without unrestricted guests need it for real mode. */
	call(vm, KVM_SET_TSS_ADDR, (void *)0xfffbd000UL, "KVM_SET_TSS_ADDR");
	unsigned char *ram = mmap(0, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (ram == MAP_FAILED)
		fail("mmap");
	memcpy(ram + CODE, code, sizeof code);
	struct kvm_userspace_memory_region region = {.memory_size = RAM_BYTES, .userspace_addr = (unsigned long)ram};
	call(vm, KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION");
	int vcpu = call(vm, KVM_CREATE_VCPU, 0, "KVM_CREATE_VCPU");
	int run_bytes = call(kvm, KVM_GET_VCPU_MMAP_SIZE, 0, "KVM_GET_VCPU_MMAP_SIZE");
	struct kvm_run *run = mmap(0, run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED)
		fail("mmap of kvm_run");
	set_cpuid(kvm, vcpu);
	enter_real_mode(vcpu);

	long count;
	while (scanf("%ld", &count) == 1)
		measure(vcpu, run, count);
	return 0;
}
