/* What the guest's compiler gets: a bit of everything that optimisers look at, no header needed. Nothing runs it. */
typedef unsigned long size;
typedef struct node { struct node *next; unsigned hash; int count; char key[24]; } node;

enum { BUCKETS = 1024, SIDE = 48, LINE = 80 };

static node *buckets[BUCKETS];
static node pool[4096];
static int used;

static unsigned hash_of(const char *text, size length)
{
	unsigned hash = 2166136261u;
	for (size i = 0; i < length; i++)
		hash = (hash ^ (unsigned char)text[i]) * 16777619u;
	return hash;
}

static int same(const char *a, const char *b, size length)
{
	while (length > 0 && *a == *b)
		a++, b++, length--;
	return length == 0 && *a == 0;
}

node *word(const char *text, size length)
{
	unsigned hash = hash_of(text, length);
	node **at = &buckets[hash % BUCKETS];
	for (; *at; at = &(*at)->next)
		if ((*at)->hash == hash && same((*at)->key, text, length))
			break;
	if (!*at && used < 4096 && length < sizeof pool[0].key) {
		node *fresh = &pool[used++];
		fresh->hash = hash;
		for (size i = 0; i < length; i++)
			fresh->key[i] = text[i];
		fresh->key[length] = 0;
		*at = fresh;
	}
	if (*at)
		(*at)->count++;
	return *at;
}

int words(const char *text)
{
	int found = 0;
	while (*text) {
		const char *start = text;
		while ((*text | 32) >= 'a' && (*text | 32) <= 'z')
			text++;
		if (text > start && word(start, (size)(text - start)))
			found++;
		else if (text == start)
			text++;
	}
	return found;
}

void multiply(double out[SIDE][SIDE], const double a[SIDE][SIDE], const double b[SIDE][SIDE])
{
	for (int i = 0; i < SIDE; i++)
		for (int j = 0; j < SIDE; j++) {
			double sum = 0;
			for (int k = 0; k < SIDE; k++)
				sum += a[i][k] * b[k][j];
			out[i][j] = sum;
		}
}

int solve(double m[SIDE][SIDE], double right[SIDE])
{
	for (int column = 0; column < SIDE; column++) {
		int best = column;
		for (int row = column + 1; row < SIDE; row++) {
			double x = m[row][column], y = m[best][column];
			if ((x < 0 ? -x : x) > (y < 0 ? -y : y))
				best = row;
		}
		if (m[best][column] == 0)
			return -1;
		for (int k = 0; k < SIDE; k++) {
			double t = m[best][k];
			m[best][k] = m[column][k];
			m[column][k] = t;
		}
		double t = right[best];
		right[best] = right[column];
		right[column] = t;
		for (int row = column + 1; row < SIDE; row++) {
			double factor = m[row][column] / m[column][column];
			for (int k = column; k < SIDE; k++)
				m[row][k] -= factor * m[column][k];
			right[row] -= factor * right[column];
		}
	}
	for (int row = SIDE - 1; row >= 0; row--) {
		for (int k = row + 1; k < SIDE; k++)
			right[row] -= m[row][k] * right[k];
		right[row] /= m[row][row];
	}
	return 0;
}

void sort(int *values, int count)
{
	while (count > 16) {
		int pivot = values[count / 2], i = -1, j = count;
		for (;;) {
			do i++; while (values[i] < pivot);
			do j--; while (values[j] > pivot);
			if (i >= j)
				break;
			int t = values[i];
			values[i] = values[j];
			values[j] = t;
		}
		sort(values, j + 1);
		values += j + 1;
		count -= j + 1;
	}
	for (int i = 1; i < count; i++) {
		int value = values[i], j = i;
		for (; j > 0 && values[j - 1] > value; j--)
			values[j] = values[j - 1];
		values[j] = value;
	}
}

/* A machine of a few instructions: a switch for a jump table. */
long interpret(const unsigned char *code, long *stack, int budget)
{
	long *top = stack;
	while (budget-- > 0)
		switch (*code++) {
		case 0: return top > stack ? top[-1] : 0;
		case 1: *top++ = (signed char)*code++; break;
		case 2: top--; top[-1] += *top; break;
		case 3: top--; top[-1] -= *top; break;
		case 4: top--; top[-1] *= *top; break;
		case 5: top--; top[-1] = *top ? top[-1] / *top : 0; break;
		case 6: top--; top[-1] = top[-1] < *top; break;
		case 7: top--; code += *top ? (signed char)*code : 1; break;
		case 8: code += (signed char)*code; break;
		case 9: *top = top[-1]; top++; break;
		case 10: top--; break;
		case 11: top[-1] = (long)((unsigned long)top[-1] << (*code++ & 63)); break;
		case 12: top[-1] = __builtin_popcountl((unsigned long)top[-1]); break;
		case 13: top[-1] = stack[*code++]; break;
		case 14: stack[*code++] = top[-1]; break;
		default: return -1;
		}
	return -2;
}

int format(char out[LINE], double value, unsigned base)
{
	unsigned long whole = (unsigned long)(value < 0 ? -value : value);
	int at = LINE - 1;
	out[at] = 0;
	do {
		unsigned digit = (unsigned)(whole % base);
		out[--at] = (char)(digit < 10 ? '0' + digit : 'a' + digit - 10);
		whole /= base;
	} while (whole && at > 1);
	if (value < 0)
		out[--at] = '-';
	return LINE - 1 - at;
}
